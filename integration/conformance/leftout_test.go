package conformance

import (
	"regexp"
	"testing"
)

// rule leaves out tests whose names match, and gives the reason. No other test of [sig-network] is left out.
type rule struct {
	pattern string
	reason  string
}

// leftOut are the tests that cannot pass here whatever the service proxy, or have nothing to do with it.
var leftOut = []rule{
	{`\[Feature:SCTPConnectivity\]`, "The kernel of the machine has no sockets of SCTP. `TestSCTPSockets` uses them on other kernels"},
	{`Services should work after restarting (kube-proxy|apiserver)|should recreate its iptables rules`,
		"They log in to the nodes by ssh. Restarts of both are in other tests: `TestChurn`, `TestAPIServerAway`"},
	{`\[Feature:NetworkPolicy\]|Netpol|NetworkPolicy`, "They test a network policy implementation, which nfproxy is not and the cluster does not have"},
	{`\[Feature:Networking-IPv[46]\]|\[Feature:Networking-DNS\]`, "They need the Internet"},
	{`\[Feature:Networking-Performance\]|\[Feature:PerformanceDNS\]`, "They measure the network and the DNS, with images that are not made here"},
	{`DNS should support configurable pod resolv\.conf`,
		"It tests a file that kubelet writes, with a DNS server in an image that the one made here does not contain"},
	{`DNS configMap nameserver`, "They change the configuration of the cluster's DNS, which is no part of nfproxy"},
	{`\[Provider:GCE\]`, "For that provider only"},
	{`KubeProxy should set TCP CLOSE_WAIT timeout`,
		"The DaemonSet leaves this sysctl to the node, because a container cannot write it; where it can, nfproxy sets it (`TestConntrackSysctls`). " +
			"The image of the test is not made here either"},
	{`\[Feature:KubeProxyNFAcct\]`, "It looks for a metric of kube-proxy's iptables mode"},
	{`should not have connectivity disruption during rolling update`,
		"They roll a DaemonSet several times, at a minute for each Pod: with kube-proxy they had not ended after ten minutes, with nfproxy they were not tried"},
}

// rulesOf returns the rules that match a name.
func rulesOf(rules []rule, name string) []rule {
	var matching []rule
	for _, r := range rules {
		if regexp.MustCompile(r.pattern).MatchString(name) {
			matching = append(matching, r)
		}
	}
	return matching
}

// TestRules: every rule has a reason, and leaves out a test of the last run that no other rule leaves out.
func TestRules(t *testing.T) {
	last := readRecord(t)
	for _, r := range leftOut {
		if r.reason == "" {
			t.Errorf("the rule %s has no reason", r.pattern)
		}
		uses := 0
		for _, result := range last.Results {
			if matching := rulesOf(leftOut, result.Name); len(matching) == 1 && matching[0] == r {
				uses++
			}
		}
		if uses == 0 {
			t.Errorf("the rule %s leaves out no test that others do not", r.pattern)
		}
	}
}
