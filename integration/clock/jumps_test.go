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
// have passed by the wall clock, /livez and /healthz succeed, the metrics stay plausible, the periodic comparison takes place in its time, and nothing is logged or
// programmed again and again.
func TestClockJumps(t *testing.T) {
	clock := newClock(t)
	n := newNode(t)
	dir := t.TempDir()
	put := func(name, ip string, affinity corev1.ServiceAffinity) {
		t.Helper()
		service, slice := service(name, ip, affinity)
		n.writeManifest(dir, name, service, slice)
	}
	n.writeManifest(dir, "node", nodeObject())
	put("sticky", "10.96.0.1", corev1.ServiceAffinityClientIP)
	n.start("--manifests", dir, "--service-cidr", "10.96.0.0/16", "--min-sync-period", minSync.String())
	stays := n.reached("10.96.0.1")
	for i, jump := range jumps {
		t.Run(jump.name, func(t *testing.T) {
			n.t, clock.t = t, t
			ip := func(which int) string { return fmt.Sprintf("10.96.%d.%d", i+1, which) }
			put(fmt.Sprint("before-", i), ip(1), corev1.ServiceAffinityNone)
			n.awaitServed(ip(1))
			put(fmt.Sprint("pending-", i), ip(2), corev1.ServiceAffinityNone)
			cluster.EventuallyTrue(t, "a change is pending", func() (bool, string) {
				pending := n.metric("kubeproxy_sync_proxy_rules_service_changes_pending")
				return pending == 1, fmt.Sprint(pending)
			})
			logged, rounds := len(n.daemon.Log.String()), n.metric(`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`)
			latencies := func() float64 {
				return n.metric(`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"}`)
			}

			compared := n.comparisons()

			clock.jump(jump.by)
			n.healthy()
			n.awaitServed(ip(2))
			n.healthy()
			if queued, synced := n.metric(`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv4"}`),
				n.metric(`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`); !(queued <= synced) {
				t.Errorf("the last change was queued at %.3f, the last round ended at %.3f", queued, synced)
			}
			if i < 2 { // once forward and once back
				n.awaitComparison(compared)
			}
			if got := n.reached("10.96.0.1"); !slices.Equal(got, stays) {
				t.Errorf("the clients with session affinity reach %s, before the jump %s", got, stays)
			}
			before := latencies()
			put(fmt.Sprint("after-", i), ip(3), corev1.ServiceAffinityNone)
			n.awaitServed(ip(3))
			if got := latencies(); got != before+1 {
				t.Errorf("%v programming latencies after a change, %v before", got, before)
			}
			if sum := n.metric(`kubeproxy_network_programming_duration_seconds_sum{ip_family="IPv4"}`); !(sum < 3600) {
				t.Errorf("the sum of all programming latencies is %.0f s", sum)
			}
			n.awaitRepair()
			service, slice := serviceUDP(fmt.Sprint("udp-", i), ip(4), endpoints[0])
			n.writeManifest(dir, service.Name, service, slice)
			n.awaitDatagram(ip(4))
			flows := len(n.daemon.Log.Lines(deleted))
			service, slice = serviceUDP(service.Name, ip(4), endpoints[1])
			n.writeManifest(dir, service.Name, service, slice)
			cluster.EventuallyTrue(t, "the flow to the removed endpoint is deleted", func() (bool, string) {
				return len(n.daemon.Log.Lines(deleted)) > flows, n.daemon.Log.String()
			})

			time.Sleep(3 * minSync)
			n.healthy()
			if others := n.logged(logged, repaired, deleted); len(others) > 0 {
				t.Errorf("logged: %s", others)
			}
			if got := n.metric(`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}`) - rounds; got != 5 {
				t.Errorf("%v rounds, want 5: four changes and the repair", got)
			}
		})
	}
	n.t, clock.t = t, t
	n.daemon.Stop()
}
