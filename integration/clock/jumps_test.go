package clock

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/integration/cluster"
)

// jumps are the jumps of the tests: their sum is zero.
var jumps = []struct {
	name string
	by   time.Duration
}{
	{"forward by a day and an hour", 25 * time.Hour},
	{"back by a day", -24 * time.Hour},
	{"back by a day, to before the start", -24 * time.Hour},
	{"forward by a day less an hour", 23 * time.Hour},
}

// minSync is the time between two transactions: so long that the clock jumps while a change is pending.
const minSync = 15 * time.Second

// TestClockJumps: the clock jumps while a change is pending. The change and later ones are programmed, another program's are
// repaired, flows to removed endpoints are deleted, the clients with session affinity keep their endpoints, although their time would
// have passed by the wall clock, /livez and /healthz succeed, the metrics stay plausible, the periodic comparison takes place in its
// time, and nothing is logged or programmed again and again.
func TestClockJumps(t *testing.T) {
	clock := newClock(t)
	n := &jumpNode{newNode(t), t.TempDir()}
	n.writeManifest(n.dir, "node", nodeObject())
	n.put("sticky", "10.96.0.1", corev1.ServiceAffinityClientIP)
	n.start("--manifests", n.dir, "--service-cidr", "10.96.0.0/16", "--min-sync-period", minSync.String())
	stays := n.reached("10.96.0.1")
	for i, jump := range jumps {
		t.Run(jump.name, func(t *testing.T) {
			n.t, clock.t = t, t
			ip := func(which int) string { return fmt.Sprintf("10.96.%d.%d", i+1, which) }
			n.put(fmt.Sprint("before-", i), ip(1), corev1.ServiceAffinityNone)
			n.awaitServed(ip(1))
			n.putPending(fmt.Sprint("pending-", i), ip(2))
			logged, rounds, compared := len(n.daemon.Log.String()), n.rounds(), n.comparisons()

			clock.jump(jump.by)
			n.healthy()
			n.awaitServed(ip(2))
			n.healthy()
			n.timestampsInOrder()
			if i < 2 { // once forward and once back
				n.awaitComparison(compared)
			}
			if got := n.reached("10.96.0.1"); !slices.Equal(got, stays) {
				t.Errorf("the clients with session affinity reach %s, before the jump %s", got, stays)
			}
			n.latencyOf(func() {
				n.put(fmt.Sprint("after-", i), ip(3), corev1.ServiceAffinityNone)
				n.awaitServed(ip(3))
			})
			n.awaitRepair()
			n.deletesFlow(fmt.Sprint("udp-", i), ip(4))

			time.Sleep(3 * minSync)
			n.healthy()
			if others := n.logged(logged, repaired, deleted); len(others) > 0 {
				t.Errorf("logged: %s", others)
			}
			if got := n.rounds() - rounds; got != 5 {
				t.Errorf("%v rounds, want 5: four changes and the repair", got)
			}
		})
	}
	n.t, clock.t = t, t
	n.daemon.Stop()
}

// jumpNode is a node whose Services come from a directory.
type jumpNode struct {
	*node
	dir string
}

// put writes a Service.
func (n *jumpNode) put(name, ip string, affinity corev1.ServiceAffinity) {
	n.t.Helper()
	service, slice := service(name, ip, affinity)
	n.writeManifest(n.dir, name, service, slice)
}

// putPending writes a Service right after a transaction, so that it waits for the next.
func (n *jumpNode) putPending(name, ip string) {
	n.t.Helper()
	n.put(name, ip, corev1.ServiceAffinityNone)
	cluster.EventuallyTrue(n.t, "a change is pending", func() (bool, string) {
		pending := n.metric("kubeproxy_sync_proxy_rules_service_changes_pending")
		return pending == 1, fmt.Sprint(pending)
	})
}

// rounds returns the number of rounds so far.
func (n *jumpNode) rounds() float64 {
	n.t.Helper()
	return n.metric(`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`)
}

// timestampsInOrder fails the test unless, by the metrics, the last round ended after the last change was queued.
func (n *jumpNode) timestampsInOrder() {
	n.t.Helper()
	queued := n.metric(`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}`)
	synced := n.metric(`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`)
	if !(queued <= synced) {
		n.t.Errorf("the last change was queued at %.3f, the last round ended at %.3f", queued, synced)
	}
}

// latencyOf fails the test unless a change of endpoints adds one programming latency, and all latencies so far are plausible.
func (n *jumpNode) latencyOf(change func()) {
	n.t.Helper()
	const latency = "kubeproxy_network_programming_duration_seconds_"
	before := n.metric(latency + `count{ip_family="IPv4"}`)
	change()
	if got := n.metric(latency + `count{ip_family="IPv4"}`); got != before+1 {
		n.t.Errorf("%v programming latencies after a change, %v before", got, before)
	}
	if sum := n.metric(latency + `sum{ip_family="IPv4"}`); !(sum < 3600) {
		n.t.Errorf("the sum of all programming latencies is %.0f s", sum)
	}
}

// deletesFlow replaces the endpoint of a UDP Service and waits until the flow to the old one is deleted.
func (n *jumpNode) deletesFlow(name, ip string) {
	n.t.Helper()
	service, slice := serviceUDP(name, ip, endpoints[0])
	n.writeManifest(n.dir, name, service, slice)
	n.awaitDatagram(ip)
	before := len(n.daemon.Log.Lines(deleted))
	service, slice = serviceUDP(name, ip, endpoints[1])
	n.writeManifest(n.dir, name, service, slice)
	cluster.EventuallyTrue(n.t, "the flow to the removed endpoint is deleted", func() (bool, string) {
		return len(n.daemon.Log.Lines(deleted)) > before, n.daemon.Log.String()
	})
}
