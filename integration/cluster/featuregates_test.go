package cluster

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestKubeProxyGates: nfproxy accepts the default of each feature gate that the help of the real kube-proxy lists, which are
// those that are neither stable nor deprecated, and like kube-proxy it refuses an unknown gate and a locked one.
func TestKubeProxyGates(t *testing.T) {
	help, err := exec.Command(".bin/kube-proxy", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("kube-proxy --help: %v (`make controlplane` builds it)\n%s", err, help)
	}
	var gates []string
	for _, m := range regexp.MustCompile(`(?m)^ *(\w+)=true\|false \(.*default=(true|false)\)$`).FindAllSubmatch(help, -1) {
		gates = append(gates, string(m[1])+"="+string(m[2]))
	}
	if len(gates) < 100 {
		t.Fatalf("found only %d gates in\n%s", len(gates), help)
	}
	run := func(gates string) string {
		t.Helper()
		out, err := Command(t, "run", "--manifests", "nosuch", "--feature-gates", gates).CombinedOutput()
		if err == nil {
			t.Fatalf("%s", out)
		}
		return string(out)
	}
	if out := run(strings.Join(gates, ",")); strings.Contains(out, "nfproxy: --feature-gates") || !strings.Contains(out, "nosuch") {
		t.Errorf("%s", out)
	}
	for _, bad := range []string{"Foo=true", "MultiCIDRServiceAllocator=false", "PreferSameTrafficDistribution=false", "NFTablesProxyMode=false"} {
		name, _, _ := strings.Cut(bad, "=")
		if out, err := exec.Command(".bin/kube-proxy", "--feature-gates", bad).CombinedOutput(); err == nil || !strings.Contains(string(out), "feature gate") ||
			!strings.Contains(string(out), name) {
			t.Errorf("kube-proxy with %s: %v\n%s", bad, err, out)
		}
		if out := run(bad); !strings.HasPrefix(out, "nfproxy: --feature-gates: "+name+": ") {
			t.Errorf("%s: %s", bad, out)
		}
	}
}
