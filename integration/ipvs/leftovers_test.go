package ipvs

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/apistub"
	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

func TestMain(m *testing.M) { cluster.Main(m, nil) }

// parameter is on the kernel's command line of the virtual machines (integration/kernels/machine.go).
const parameter = "nfproxy.loadable-modules"

// Addresses of two Services. The second one exists for kube-proxy only.
const web, old = "10.96.0.1", "10.96.0.9"

// Endpoints of Service web: kube-proxy knows one, nfproxy the other.
const before, after = "10.244.1.2", "10.244.1.3"

// TestLeftovers: when kube-proxy in mode ipvs has ended, nfproxy serves the Services that exist, beside what kube-proxy left: the check names
// that. A Service that no longer exists is still served by IPVS. The commands of the document, and kube-proxy itself, remove all of it;
// then the check is content, and nfproxy still serves.
func TestLeftovers(t *testing.T) {
	line, err := os.ReadFile("/proc/cmdline")
	check(t, err)
	if !slices.Contains(strings.Fields(string(line)), parameter) {
		t.Skip("loads modules of the kernel: make test-kernels runs it in virtual machines")
	}
	run(t, "modprobe -a ip_vs dummy")
	client := newNetwork(t)
	config := kubeProxyConfig(t)
	for _, way := range []struct {
		name     string
		commands []string
	}{
		{"by hand", commandsOfDocument(t)},
		// The cleanup of mode iptables comes first and fails to delete chains that rules of mode ipvs refer to.
		{"kube-proxy", []string{"kube-proxy --cleanup || test $? = 1"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			leaveBehind(t, config, client)
			wantLeftovers(t)
			daemon := cluster.StartDaemon(t, "run", "--manifests", manifests(t), "--hostname-override", cluster.NodeName, "--cluster-cidr", "10.244.0.0/16",
				"--service-cidr", "10.96.0.0/16", "--conntrack-max-per-core", "0", "--oom-score-adj", "0")
			daemon.AwaitLog("in sync")
			wantAnswer(t, client, web, after)
			if way.name == "by hand" { // the answer to the second way is the same
				wantAnswer(t, client, old, before)
			}
			for _, command := range way.commands {
				run(t, command)
			}
			wantNothing(t)
			run(t, "kube-proxy --cleanup")
			wantAnswer(t, client, web, after)
			if got, err := cluster.ReadGreeting(t.Context(), client.Namespace, old+":80"); err == nil {
				t.Errorf("%s answers for a Service that does not exist", got)
			}
			daemon.Stop()
			if out, err := cluster.Command(t, "cleanup").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// newNetwork makes the node's network with both endpoints, and returns a client.
func newNetwork(t *testing.T) *sandbox.Pod {
	t.Helper()
	here, err := sandbox.Current()
	check(t, err)
	network, err := sandbox.NewNetwork(here, cluster.NodeAddrs...)
	check(t, err)
	t.Cleanup(func() { check(t, network.Close()) })
	for i, addr := range []string{before, after} {
		pod, err := network.AddPod(fmt.Sprint("server-", i), netip.MustParseAddr(addr))
		check(t, err)
		cluster.ServeGreeting(t, pod, addr+":8080", addr)
	}
	client, err := network.AddPod("client", netip.MustParseAddr("10.244.1.9"))
	check(t, err)
	return client
}

// kubeProxyConfig starts an API server for kube-proxy, and returns a configuration with mode ipvs.
func kubeProxyConfig(t *testing.T) string {
	t.Helper()
	server := apistub.New(t, "token")
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: cluster.NodeName},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: cluster.NodeAddrs[0].String()}}}}
	server.Put(t, "nodes", node)
	for name, ip := range map[string]string{"web": web, "old": old} {
		service, slice := service(name, ip, before)
		server.Put(t, "endpointslices", slice)
		server.Put(t, "services", service)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		check(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	kubeconfig := write("kubeconfig", server.Kubeconfig(write("token", "token")))
	return write("config.yaml", fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
hostnameOverride: %s
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: %s}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
`, cluster.NodeName, kubeconfig))
}

// service returns a Service with one port and one endpoint, and its EndpointSlice.
func service(name, ip, endpoint string) (*corev1.Service, *discoveryv1.EndpointSlice) {
	port, protocol, yes := int32(8080), corev1.ProtocolTCP, true
	family := corev1.IPFamilyPolicySingleStack
	slice := &discoveryv1.EndpointSlice{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port, Protocol: &protocol}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{endpoint}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}}}
	return &corev1.Service{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			IPFamilyPolicy: &family, Ports: []corev1.ServicePort{{Port: 80, Protocol: protocol}}}}, slice
}

// manifests returns a directory with Service web as nfproxy knows it.
func manifests(t *testing.T) string {
	t.Helper()
	service, slice := service("web", web, after)
	dir := t.TempDir()
	for name, object := range map[string]any{"service.json": service, "slice.json": slice} {
		text, err := json.Marshal(object)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, strings.TrimSuffix(name, ".json")+".yaml"), text, 0o600))
	}
	return dir
}

// leaveBehind runs kube-proxy in mode ipvs until both Services are served, and ends it as a kubelet does.
func leaveBehind(t *testing.T, config string, client *sandbox.Pod) {
	t.Helper()
	cmd := exec.Command(absolute(t, ".bin/kube-proxy"), "--config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	kubeProxy := cluster.StartProcess(t, cmd)
	for _, ip := range []string{web, old} {
		cluster.EventuallyTrue(t, "IPVS has "+ip, func() (bool, string) {
			out, err := cluster.CombinedOutput("ipvsadm", "-Ln")
			return err == nil && strings.Contains(out, ip+":80"), fmt.Sprintf("%v: %s\n%s", err, out, kubeProxy.Log)
		})
		wantAnswer(t, client, ip, before)
	}
	for _, l := range leftovers { // the rules are written after the virtual services, those of IPv6 last
		cluster.EventuallyTrue(t, fmt.Sprintf("%s: there is %s", l.command, l.pattern), func() (bool, string) {
			out := output(t, l.command)
			return regexp.MustCompile(l.pattern).MatchString(out), fmt.Sprintf("%s\n%s", out, kubeProxy.Log)
		})
	}
	kubeProxy.End(syscall.SIGTERM)
}

// leftovers are commands that print what kube-proxy left, and a pattern of what they print then.
var leftovers = []struct{ command, pattern string }{
	{"cat /proc/net/ip_vs", `(?m)^TCP +0A600001:0050`},
	{"cat /proc/net/dev", `kube-ipvs0:`},
	{"ipset list -n", `(?m)^KUBE-CLUSTER-IP$`},
	{"iptables-save", `(?m)^-A KUBE-SERVICES .*--match-set KUBE-CLUSTER-IP`},
	{"ip6tables-save", `(?m)^:KUBE-SERVICES`},
}

// wantLeftovers fails the test unless kube-proxy has left all of it, and the check names it.
func wantLeftovers(t *testing.T) {
	t.Helper()
	for _, l := range leftovers {
		if out := output(t, l.command); !regexp.MustCompile(l.pattern).MatchString(out) {
			t.Errorf("%s: kube-proxy left no %s:\n%s", l.command, l.pattern, out)
		}
	}
	out, _ := cluster.Command(t, "check").CombinedOutput() // the exit code depends on other lines
	for _, want := range []string{`warning +ipvs +found 2 virtual services and the interface kube-ipvs0`, `warning +kube-proxy-iptables +kube-proxy chains in iptables-nft: `} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("nfproxy check does not say %q:\n%s", want, out)
		}
	}
}

// wantNothing fails the test if anything is left, or if the check names something.
func wantNothing(t *testing.T) {
	t.Helper()
	for _, l := range leftovers {
		if out := output(t, l.command); regexp.MustCompile(l.pattern).MatchString(out) || strings.Contains(out, "KUBE-") {
			t.Errorf("%s: something is left:\n%s", l.command, out)
		}
	}
	out, _ := cluster.Command(t, "check").CombinedOutput()
	for _, want := range []string{`ok +ipvs +no virtual services`, `ok +kube-proxy-iptables `} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("nfproxy check does not say %q:\n%s", want, out)
		}
	}
}

// wantAnswer fails the test unless an endpoint answers for a Service.
func wantAnswer(t *testing.T, client *sandbox.Pod, ip, want string) {
	t.Helper()
	if got, err := cluster.ReadGreeting(t.Context(), client.Namespace, ip+":80"); err != nil || got != want {
		t.Errorf("%s: %q answers, want %s: %v", ip, got, want, err)
	}
}

// commandsOfDocument returns the commands in the block that begins with the first one.
func commandsOfDocument(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("docs/coming-from-ipvs.md")
	check(t, err)
	_, block, found := strings.Cut(string(text), "\n\n    ip link delete kube-ipvs0\n")
	block, _, ended := strings.Cut(block, "\n\n")
	if !found || !ended {
		t.Fatal("docs/coming-from-ipvs.md has no block of commands")
	}
	commands := []string{"ip link delete kube-ipvs0"}
	for line := range strings.SplitSeq(block, "\n") {
		commands = append(commands, strings.TrimSpace(line))
	}
	return commands
}

// run runs a command, in whose path kube-proxy is.
func run(t *testing.T, command string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", command)
	cmd.Env = append(os.Environ(), "PATH="+absolute(t, ".bin")+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if t.Logf("%s\n%s", command, out); err != nil {
		t.Errorf("%s: %v", command, err)
	}
}

// output returns the standard output of a command.
func output(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).Output()
	if err != nil {
		t.Errorf("%s: %v", command, err)
	}
	return string(out)
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	check(t, err)
	return path
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
