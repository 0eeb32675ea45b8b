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

// KubeadmManifest is the file with the manifest that kubeadm generates from the init.yaml beside it, unchanged. Without a
// mode in init.yaml kubeadm generates the same manifest with mode "".
const KubeadmManifest = "integration/cluster/testdata/kubeadm/kube-proxy.yaml"

// KubeadmConfigFiles returns the files of kubeadm's ConfigMap kube-proxy, by name, with the mode replaced.
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

// Modes of kube-proxy as kubeadm writes them.
const (
	NftablesMode = "nftables"
	DefaultMode  = `""` // iptables in v1.36
)

// kubeProxyRoot is a shell script that mounts, in a mount namespace of its own, what kubeadm's DaemonSet mounts: $1 is the
// directory of the ConfigMap, $2 that of the service account. Two sysctls belong to the machine and not to the network
// namespace; files in directory $3 stand in for them.
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

// StartKubeProxy starts the real kube-proxy as kubeadm's DaemonSet does, with these files in its ConfigMap's volume. Flags
// replace those of the DaemonSet.
func (c *Cluster) StartKubeProxy(files map[string]string, flags ...string) *Process {
	c.T.Helper()
	return StartProcess(c.T, c.KubeProxyCommand(files, flags...))
}

// KubeProxyCommand returns the command that StartKubeProxy starts.
func (c *Cluster) KubeProxyCommand(files map[string]string, flags ...string) *exec.Cmd {
	c.T.Helper()
	path, err := filepath.Abs(".bin/kube-proxy")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		c.T.Fatalf("kube-proxy is not built: run `make controlplane` (%v)", err)
	}
	if out, err := Command(c.T, "check").CombinedOutput(); err != nil { // loads connection tracking
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
	return cmd
}

// AccountFiles returns the files, by name, that a container finds in the volume of its service account.
func AccountFiles(namespace string, account *rest.Config) map[string]string {
	return map[string]string{"token": account.BearerToken, "ca.crt": string(account.CAData), "namespace": namespace}
}

// KubeProxyTablesContain returns the condition that kube-proxy's nftables tables contain all of the texts.
func KubeProxyTablesContain(texts ...string) Condition {
	return TablesContain("kube-proxy", texts...)
}

// TablesContain returns the condition that the ip and ip6 tables of a name, as nft lists them, contain all of the texts.
func TablesContain(name string, texts ...string) Condition {
	return func() (bool, string) {
		out4, _ := CombinedOutput("nft", "list", "table", "ip", name) // fails if there is no such table
		out6, _ := CombinedOutput("nft", "list", "table", "ip6", name)
		return containsAll(out4+out6, texts)
	}
}

// IptablesContain returns the condition that the iptables rules of both families contain all of the texts. iptables-save is
// the program that kube-proxy runs as well.
func IptablesContain(t testing.TB, texts ...string) Condition {
	t.Helper()
	if _, err := exec.LookPath("iptables-save"); err != nil {
		t.Fatalf("iptables is not installed: run `make tools` (%v)", err)
	}
	return func() (bool, string) {
		out4, _ := CombinedOutput("iptables-save")
		out6, _ := CombinedOutput("ip6tables-save")
		return containsAll(out4+out6, texts)
	}
}

// CheckTables fails the test unless the node has exactly these nftables tables, apart from the guard tables of nfproxy.
func CheckTables(t testing.TB, tables ...string) {
	t.Helper()
	out, err := CombinedOutput("nft", "list", "tables")
	if err != nil {
		t.Fatal(err, out)
	}
	var got []string
	for line := range strings.Lines(out) {
		name := strings.TrimPrefix(strings.TrimSpace(line), "table ")
		if !strings.Contains(name, "nfproxy-guard") {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, tables) {
		t.Errorf("tables %q, want %q", got, tables)
	}
}

// PublicDir returns a new directory that every user may enter.
func PublicDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// DirWithFiles returns a new directory with these files, by name, which every user may read.
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
