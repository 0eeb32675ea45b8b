package cluster

import (
	"regexp"
	"testing"
)

// TestExplainCluster: with access to the API server, nfproxy explain also prints the desired state and the drift from it.
func TestExplainCluster(t *testing.T) {
	c := New(t)
	c.startAgent()
	EventuallyTrue(t, "the API server is an endpoint of its Service", c.DumpContains("default/kubernetes:https", "192.0.2.10:6443"))
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	out, err := Command(t, "explain", "--from", "10.244.1.9", "--to", "kubernetes", "--kubeconfig", kubeconfig,
		"--hostname-override", NodeName, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48").CombinedOutput()
	for _, want := range []string{"outcome +sent to 192.0.2.10:6443: ", "expected +default/kubernetes, balance: any endpoint may serve\n",
		"drift +none: the kernel's tables match the desired state\n", "192.0.2.10:6443 +- +yes +the ready endpoints\n"} {
		if !regexp.MustCompile(want).Match(out) || err != nil {
			t.Fatalf("nfproxy explain: %v, want %q in\n%s", err, want, out)
		}
	}
}
