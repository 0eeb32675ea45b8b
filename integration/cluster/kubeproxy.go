package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

// kubeadmManifest is what kubeadm makes of init.yaml beside it, byte by byte. Without a word about the mode kubeadm
// writes the same but for mode "".
const KubeadmManifest = "integration/cluster/testdata/kubeadm/kube-proxy.yaml"

// kubeadmFiles are the files of kubeadm's ConfigMap kube-proxy, as they are with that mode.
func KubeadmConfigFiles(t testing.TB, mode string) map[string]string {
	t.Helper()
	var config corev1.ConfigMap
	ReadObject(t, KubeadmManifest, "ConfigMap", &config)
	before, after, ok := strings.Cut(config.Data["config.conf"], "\nmode: nftables\n")
	if !ok {
		t.Fatalf("%s has no mode nftables", KubeadmManifest)
	}
	config.Data["config.conf"] = before + "\nmode: " + mode + "\n" + after
	return config.Data
}

// The modes of kube-proxy, as kubeadm writes them. None is iptables in v1.36.
const NftablesMode, DefaultMode = "nftables", `""`

// kubeProxyRoot shows kube-proxy what kubeadm's DaemonSet mounts, $1 at its place and $2 as the service account's, in a mount
// namespace of its own. Two numbers are the machine's, not its network namespace's: files stand in, in $3.
const kubeProxyRoot = `set -e
mount --make-rprivate /
mount --bind "$3/max" /proc/sys/net/netfilter/nf_conntrack_max
mount --bind "$3/hashsize" /sys/module/nf_conntrack/parameters/hashsize
mount -t tmpfs none /var/lib
mount -t tmpfs none /run
mkdir -p /var/lib/kube-proxy /run/secrets/kubernetes.io/serviceaccount
mount --bind "$1" /var/lib/kube-proxy
mount --bind "$2" /run/secrets/kubernetes.io/serviceaccount
shift 3
exec "$@"`

// kubeProxy starts the real one as kubeadm's DaemonSet does, with these files in its ConfigMap's volume.
func (c *Cluster) StartKubeProxy(files map[string]string, flags ...string) *Process {
	c.T.Helper()
	path, err := filepath.Abs(".bin/kube-proxy")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		c.T.Fatalf("kube-proxy is not built: run `make controlplane` (%v)", err)
	}
	if out, err := Command(c.T, "check").CombinedOutput(); err != nil { // which loads connection tracking
		c.T.Fatalf("%v\n%s", err, out)
	}
	account := c.ServiceAccountConfig("kube-system", "kube-proxy")
	args := []string{"kube-proxy", "-c", kubeProxyRoot, "sh", DirWithFiles(c.T, files), DirWithFiles(c.T, AccountFiles("kube-system", account)),
		DirWithFiles(c.T, map[string]string{"max": "131072", "hashsize": "32768"}), path}
	if flags == nil {
		flags = []string{"--config=/var/lib/kube-proxy/config.conf", "--hostname-override=" + NodeName}
	}
	cmd := exec.Command("/bin/sh")
	cmd.Args = append(args, flags...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return StartProcess(c.T, cmd)
}

// accountFiles are the files that a Pod finds of its service account.
func AccountFiles(namespace string, account *rest.Config) map[string]string {
	return map[string]string{"token": account.BearerToken, "ca.crt": string(account.CAData), "namespace": namespace}
}

// kubeProxyHas says whether kube-proxy's nftables tables have all of the texts.
func KubeProxyTablesContain(texts ...string) func() (bool, string) {
	return TablesContain("kube-proxy", texts...)
}

// listed says whether the tables of that name, as nft lists them, have all of the texts.
func TablesContain(name string, texts ...string) func() (bool, string) {
	return func() (bool, string) {
		out4, _ := CombinedOutput("nft", "list", "table", "ip", name) // which may not be there
		out6, _ := CombinedOutput("nft", "list", "table", "ip6", name)
		missing := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return strings.Contains(out4+out6, s) })
		return len(missing) == 0, strings.Join(missing, ", ") + " is not in\n" + out4 + out6
	}
}

// iptablesHave says whether the rules of iptables have all of the texts. kube-proxy runs the same program.
func IptablesContain(t testing.TB, texts ...string) func() (bool, string) {
	if _, err := exec.LookPath("iptables-save"); err != nil {
		t.Fatalf("iptables is not installed: run `make tools` (%v)", err)
	}
	return func() (bool, string) {
		out4, _ := CombinedOutput("iptables-save")
		out6, _ := CombinedOutput("ip6tables-save")
		missing := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return strings.Contains(out4+out6, s) })
		return len(missing) == 0, strings.Join(missing, ", ") + " is not in\n" + out4 + out6
	}
}

// hasTables fails the test unless these are the node's tables, but for guards of nfproxy's.
func CheckTables(t testing.TB, tables ...string) {
	t.Helper()
	out, err := CombinedOutput("nft", "list", "tables")
	if err != nil {
		t.Fatal(err, out)
	}
	var got []string
	for line := range strings.Lines(out) {
		name := strings.TrimPrefix(strings.TrimSpace(line), "table ")
		if !strings.Contains(name, "nfproxy-guard-") {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, tables) {
		t.Errorf("tables %q, want %q", got, tables)
	}
}

// publicDir is a new directory that every user may enter.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// directory is a new directory with these files, which every user may read.
func DirWithFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := PublicDir(t)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
