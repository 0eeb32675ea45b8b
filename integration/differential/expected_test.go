package differential

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the table of deliberate differences in docs/behaviour.md; review the difference before you commit it")

// expectation is a deliberate difference between the proxies: a row of the table in docs/behaviour.md.
type expectation struct {
	subject   string
	kubeProxy string
	nfproxy   string                // and the reason
	explains  func(difference) bool // nil if TestDifferential cannot see it
}

// expected is the list of deliberate differences. TestDifferential fails for every other one.
var expected = []expectation{
	{"refused TCP connections",
		"ICMP port unreachable",
		"a TCP reset: ICMP errors are rate limited, and a client that receives none waits (`TestClusterIP`)", nil},
	{"UDP and SCTP from the node to its own node port, without endpoints",
		"the packet is refused in hook input: the call that sends it succeeds, and the next call on a connected socket fails with ECONNREFUSED",
		"the packet is refused in hook output, as for every other frontend: the call fails with EPERM (`TestDifferential`)", refusedAtOutput},
	{"masquerading",
		"sets and clears bit 14 of the packet mark",
		"no mark is set or read: the decision follows from the conntrack entry (`TestMatrix`)", nil},
	{"invalid source ranges",
		"skipped; if no range is left, all sources are admitted",
		"the addresses are not served: a typing error admits no source (`TestBadInput`)", nil},
	{"two Services with one frontend",
		"the one written last gets it, which can differ at each sync; an external IP takes precedence over a node port",
		"an address that the API server allocated to a Service belongs to that Service, even if another one lists it; otherwise the older Service gets it. The conflict is reported for the other one, which takes over later (`TestClaimsByKind`, `TestConflicts`)", severalServices},
	{"two ports of one name",
		"the last is used",
		"the first is used, and the other is reported (`TestBadInput`)", nil},
	{"one invalid object",
		"can stop the updates of its family",
		"does not affect other objects (`TestReduceService`, `TestQuarantine`)", nil},
	{"an endpoint in two slices, ready in one",
		"the last one seen is used",
		"the ready one is used: the order of slices has no meaning (`TestJoinRepeatedEndpoint`)", inTwoSlices},
	{"UDP flows to an endpoint that is in no EndpointSlice, or to a frontend that no longer exists",
		"ended only if another endpoint serves the port; flows to a removed frontend stay",
		"ended: another Pod may get the endpoint's address (`TestFlowsOfUnreadyEndpoints`, `TestFlowsRestart`)", endpointOrFrontendGone},
	{"UDP flows to an endpoint that is ready but does not serve (`publishNotReadyAddresses`)",
		"ended at each cleanup if another endpoint serves",
		"stay, because new flows go to the endpoint too (`TestJudge`)", readyAndNotServing},
	{"UDP flows to the number of a node port",
		"ended at any address, even if the flow belongs to another program",
		"ended only at the node's own node port addresses; a flow that a process on the node answers stays, and so does one without translation in another conntrack zone (`TestForeignFlows`, `TestJudge`)", numberOfNodePort},
	{"UDP flows that began before their destination became a frontend, without replies, while no endpoint serves",
		"refused or dropped: rules see every packet in conntrack state new",
		"go on untranslated until they expire or an endpoint serves: rules see only the first packet of a flow (`TestDifferential`)", beganBefore},
	{"weights and consistent hashing ([algorithms.md](algorithms.md))",
		"has neither; the test shows it the EndpointSlices without the endpoints of weight 0",
		"a client reaches the endpoint that the hash leads to, on every node and after every restart; an endpoint with weight 0 gets no new connections, but UDP flows to it go on, for it is still there (`TestDifferential`, `TestWeightZero`)", weightZero},
	{"SCTP associations",
		"conntrack entries stay until they expire",
		"entries whose endpoint is in no EndpointSlice or whose frontend no longer exists are deleted, and those that are neither translated nor answered: their packets reach no endpoint (`TestFlowsSCTP`, `TestJudge`)", nil},
	{"source ranges that become tighter",
		"evaluated for every packet in conntrack state new: a UDP flow without replies is dropped, an answered flow continues",
		"rules see only first packets, and the conntrack entries of UDP and SCTP from sources that are no longer admitted are deleted: a sender that never pauses is dropped as well, answered or not (`TestFlowsOfSourceRanges`)", nil},
	{"session affinity",
		"a set and a rule per endpoint, evaluated in sequence; a changed timeout takes effect with the next connection",
		"a map per port, one lookup; a changed timeout takes effect at once (`TestAffinityTimeout`)", nil},
	{"a client that reached one endpoint and then, by a frontend with policy Local, another one on this node",
		"its next connections by the first frontend reach the one of them that comes first in the rules",
		"they reach the one that the client reached first by such a frontend: the entry of a client keeps its endpoint, and one map has one entry for each client (`TestAffinityMixedPolicies`, `TestAffinityLosesFirstEndpoint`)", returnsToItsFirst},
	{"session affinity, a policy Local, and topology hints that exclude some endpoints of this node from other connections",
		"a client that reached an endpoint of this node by a frontend with policy Local keeps it by every frontend that the endpoint may serve",
		"it keeps it by the frontends with policy Local; by the others only if all endpoints of this node may serve them, because a rule for each endpoint would be needed to tell which of them may (`TestAffinityOfLocalOnlyEndpoint`)", localAndHints},
	{"session affinity without a timeout, or with one out of bounds",
		"relies on the API server",
		"uses the default or the bound (`TestReduceAffinity`)", nil},
	{"node ports at all local addresses, and a route of type local to more than one address, such as `ip route add local 203.0.113.0/24 dev lo`",
		"are served at each address of the range",
		"are not served at them, because each address of a node port is an element of a map (`TestNodeWithoutAddresses`, `TestInterfaceAddressesOfRoutes`)", nil},
	{"node ports at an address of the Node that no interface of the machine has",
		"not served",
		"served: the rules do not depend on interfaces, and a packet that arrives for this address is meant for the node (`TestReduceNode`)", nil},
	{"NodeCIDR, and the Node has no podCIDRs yet",
		"waits for up to five minutes, then exits",
		"works without them and uses them as soon as they are set (`TestNodePodCIDRs`)", nil},
	{"NodeCIDR, and there is no Node object yet",
		"waits for up to five minutes, then exits; `clusterCIDR` has no effect",
		"uses `clusterCIDR`, if it is set, until there is a Node object (`TestNodePodCIDRs`)", nil},
	{"no Node object when the proxy starts",
		"waits for 30 seconds, then serves node ports at all addresses of the node",
		"serves node ports at the addresses of the default routes, in a family without one at all addresses, and at those of the Node as soon as it has some: a restart does not open them at other addresses (`TestNodeMissing`)", nil},
	{"the sysctl `net.ipv6.conf.all.disable_ipv6` is 1",
		"programs IPv4 only, and `/healthz` has no status of IPv6",
		"programs both families. On a kernel without IPv6, both proxies program and report IPv4 only (`TestIPv4Only`, `TestNodeHealthWithoutIPv6`)", nil},
	{"podCIDRs, node addresses, service CIDRs that change",
		"exits, logs the change, or waits for a full sync, up to an hour",
		"the change takes effect at once (`TestNodePodCIDRs`, `TestNodeWithoutAddresses`, `TestNodeChange`)", nil},
	{"an unusable address, such as a loopback address",
		"relies on the API server",
		"reported, not used (`TestReduceService`, `TestReduceSlice`)", nil},
	{"a health check node port, and an EndpointSlice with a port that the Service does not have",
		"the ready endpoints of this node in all of the Service's EndpointSlices count",
		"only endpoints of the Service's ports count: a connection reaches no other (`TestJoin`)", countsOtherPorts},
	{"a health check node port that cannot be bound",
		"an Event; retried at the next sync, all addresses or none",
		"an Event and a line in the log; retried every second, each address separately (`TestHealthPortTaken`)", nil},
	{"loopback addresses in `nodePortAddresses`, and health check node ports",
		"they listen there, too",
		"they do not: no load balancer reaches these addresses (`TestHealthAnswers`)", nil},
	{"node ports at localhost (v1.37): the feature gate",
		"needed",
		"a KubeProxyConfiguration needs it too; the flag `--nodeport-addresses localhost` does not, because it has no other purpose (`TestLocalhostNodePorts`)", nil},
	{"… the last endpoint goes, or becomes unready",
		"connections to it are closed",
		"new connections are refused, and open ones continue, as at other addresses: endpoints that are unready for a moment must not cut them (`TestConnectionsOutliveEndpoints`)", nil},
	{"… an endpoint cannot be reached, or a side resets its connection",
		"the other side sees the end of the data",
		"the other side is reset: cut data must not look complete (`TestConnectionReset`, `TestEndpointRefuses`)", nil},
	{"… a node port that cannot be bound",
		"an error in the log at each sync, which is also the next attempt",
		"an Event and one line in the log; retried every second (`TestPortTaken`)", nil},
	{"… many connections",
		"no limit",
		"1,024 at one node port and 4,096 at all; further ones are reset and reported: a program that leaks connections must not use up the proxy's memory and files (`TestConnectionLimits`)", nil},
	{"… with the gate: UDP and SCTP, and TCP if the list does not contain `localhost`",
		"rejected by a rule, even if another program listens on the port",
		"no rule: a program that listens there is reached, otherwise the kernel refuses (`TestRunLocalhost`)", nil},
	{"a Service that costs more elements than one Service may",
		"programmed whatever it costs: every Service of the node waits for it, and memory can run out",
		"served in part: without its external IPs and load balancer addresses, or not at all, and reported. The bound is `--max-service-elements` (`TestOversized`, `TestOversizedIsCheap`, `TestServiceGrowsBeyondBound`)", nil},
	{"external IPs",
		"controlled by the feature gate `AllowServiceExternalIPs`, on by default",
		"the gate has the same effect (`TestFeatureGates`); `--external-ips` also allows only ranges (`TestHostileAddresses`)", nil},
	{"feature gates",
		"an unknown gate is an error; each known one has its effect",
		"the same for unknown ones; [configuration.md](configuration.md#feature-gates) lists which known ones have an effect, have none, or are an error (`TestFeatureGates`, `TestKubeProxyGates`)", nil},
	{"changes of its tables by other programs",
		"repaired at the next full sync, hourly",
		"repaired at once, because the kernel notifies nfproxy (`TestRepairs`). If only elements of the shared maps and sets were changed, up to 1,000 in one commit, nfproxy reads and repairs these alone, whatever the number of Services (`TestRestoresElements`, `TestRestoresWhatIsUnnamed`, `TestRestore`). Programs that commit to other tables, however often, neither disturb nor delay reads and repairs (`TestReadUnderCommits`, `TestReadChains`, `TestUpdatesUnderCommits`, `TestStale`), and no element is missed while the kernel resizes a hash table (`TestReadDuringRehash`). A comparison every 5 to 7.5 minutes repairs changes of which no notification told; it reads the tables only if another program has committed since they were last read, and takes 1% of a processor at most (`TestComparisonRepairs`, `TestComparisonReadsOnlyAfterCommits`, `TestComparisonSchedule`). If the kernel refuses to send notifications again after a large batch, nfproxy tries until it does (`TestMonitorRejoins`)", nil},
	{"connections to health check node ports, to the healthz and to the metrics address",
		"no limit; headers up to 1 MB",
		"512 at each of the two addresses and 512 at all health check node ports: a new one takes the place of the one that has waited for a request for longest, so that clients that hold connections do not stop probes; headers up to 20 kB (`TestConnectionsAreLimited`, `TestHeadersAreLimited`)", nil},
	{"tables of other programs",
		"removes the tables of kube-proxy's other modes",
		"changes only its own tables (`TestForeignTables`)", nil},
}

// isExpected reports whether a row of the list explains a difference.
func isExpected(d difference) bool {
	return slices.ContainsFunc(expected, func(e expectation) bool { return e.explains != nil && e.explains(d) })
}

// The table in docs/behaviour.md begins after this line and ends with an empty one.
const tableHead = "| subject | kube-proxy | nfproxy, and the reason |\n|---|---|---|\n"

// TestDeliberateDifferences: docs/behaviour.md has exactly the rows of the list.
func TestDeliberateDifferences(t *testing.T) {
	const path = "docs/behaviour.md"
	data, err := os.ReadFile(path)
	check(t, err)
	before, rest, found := strings.Cut(string(data), tableHead)
	old, after, ended := strings.Cut(rest, "\n\n")
	if !found || !ended {
		t.Fatalf("%s has no table of differences", path)
	}
	var rows []string
	for _, e := range expected {
		rows = append(rows, fmt.Sprintf("| %s | %s | %s |", e.subject, e.kubeProxy, e.nfproxy))
	}
	table := strings.Join(rows, "\n")
	if *update {
		check(t, os.WriteFile(path, []byte(before+tableHead+table+"\n\n"+after), 0o644))
	} else if table != old {
		t.Errorf("the table in %s differs from the list: run go test ./integration/differential -run TestDeliberateDifferences -update", path)
	}
}
