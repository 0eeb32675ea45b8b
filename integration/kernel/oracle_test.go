package kernel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// examples returns Services for the comparison with nft: all protocols, both families, no, one and several endpoints, local and
// remote ones, and the longest possible names.
func examples() []render.Service {
	long := service("x", nft.UDP, "10.96.0.9:65535", "10.244.1.9:1 remote")
	long.Namespace, long.Name = strings.Repeat("n", 63), strings.Repeat("s", 63)
	long.Ports[0].Name, long.Affinity, long.InternalLocal = strings.Repeat("p", 63), time.Hour, true
	long.Ports[0].Endpoints = append(long.Ports[0].Endpoints, endpoint("10.244.1.3:1"))
	dual := service("dual", nft.SCTP, "10.96.0.4:38412", "10.244.1.2:38412", "[fd00:10:244:1::2]:38412", "[fd00:10:244:2::2]:38412 remote")
	dual.ClusterIPs = append(dual.ClusterIPs, service("", nft.SCTP, "[fd00:10:96::4]:1").ClusterIPs...)
	external := service("external", nft.TCP, "10.96.0.6:443", "10.244.1.2:8443", "10.244.2.2:8443 remote")
	external.ClusterIPs = append(external.ClusterIPs, netip.MustParseAddr("fd00:10:96::6"))
	external.Ports[0].Endpoints = append(external.Ports[0].Endpoints, endpoint("[fd00:10:244:1::2]:8443"))
	external.Ports[0].NodePort = 30443
	external.ExternalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.80"), netip.MustParseAddr("2001:db8:51::80")}
	external.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:cb::10")}
	external.SourceRanges = prefixes("198.51.100.0/24", "192.0.2.0/24", "2001:db8:51::/48")
	local := external
	local.Name, local.ExternalLocal, local.InternalLocal = "external-local", true, true
	local.ClusterIPs, local.Ports = []netip.Addr{netip.MustParseAddr("10.96.0.7")}, slices.Clone(external.Ports)
	local.Ports[0].Port, local.Ports[0].NodePort = 8443, 30444
	sticky := service("sticky", nft.TCP, "10.96.0.8:80", "10.244.1.2:8080", "10.244.2.2:8080 remote")
	sticky.Affinity, sticky.ExternalLocal, sticky.InternalLocal = 3*time.Hour, true, true
	sticky.ExternalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.88")}
	stickyUDP := service("sticky-too", nft.UDP, "10.96.0.8:80", "10.244.1.2:8080")
	stickyUDP.Affinity, stickyUDP.ExternalIPs, stickyUDP.Ports[0].Name = time.Minute, sticky.ExternalIPs, ""
	limited := service("limited", nft.TCP, "10.96.0.11:80", "10.244.1.2:8080")
	limited.ClusterIPs = append(limited.ClusterIPs, netip.MustParseAddr("fd00:10:96::11"))
	limited.Ports[0].Endpoints = append(limited.Ports[0].Endpoints, endpoint("[fd00:10:244:1::2]:8080"))
	limited.Limits = render.Limits{Rate: nft.Limit{Packets: 100, Per: time.Second, Burst: 20}, ClientRate: nft.Limit{Packets: 3, Per: time.Minute, Burst: 5}}
	dropping := service("dropping", nft.UDP, "10.96.0.12:80", "10.244.1.2:8080")
	dropping.Limits = render.Limits{Rate: nft.Limit{Packets: 1, Per: time.Hour, Burst: 1}, Drop: true}
	return []render.Service{
		sticky, stickyUDP, limited, dropping, external, local,
		service("web", nft.TCP, "10.96.0.1:80", "10.244.1.2:8080", "10.244.1.3:8080", "10.244.2.2:8080 remote"),
		service("dns", nft.UDP, "10.96.0.10:53", "10.244.1.2:5353"),
		service("empty", nft.TCP, "10.96.0.3:443"),
		service("six", nft.TCP, "[fd00:10:96::1]:80", "[fd00:10:244:1::2]:8080", "[fd00:10:244:2::2]:8080 remote"),
		service("none-of-six", nft.UDP, "[fd00:10:96::2]:80"),
		dual, long,
	}
}

// TestOracleText: the text of the tables, loaded by nft, and the changes that nfproxy sends over netlink result in the same
// ruleset, down to the expressions.
func TestOracleText(t *testing.T) {
	for _, pods := range []string{"", "cni0", "veth*"} {
		t.Run("pod interface "+pods, func(t *testing.T) { oracleText(t, func(n *render.Node) { n.PodInterface = pods }) })
	}
	for _, unserved := range []render.UnservedPorts{render.RefuseUnserved, render.DropUnserved} {
		t.Run(fmt.Sprint("unserved ports ", unserved), func(t *testing.T) {
			oracleText(t, func(n *render.Node) { n.UnservedPorts, n.AnswerPing = unserved, true })
		})
	}
}

func oracleText(t *testing.T, change func(*render.Node)) {
	ours, theirs := newTestNode(t), newTestNode(t)
	change(&ours.facts)
	ours.ruleset.Update(render.Update{Node: ours.facts, Services: examples()})
	ours.reconcile()
	theirs.nft(tablesText(ours.ruleset.Tables()), "-f", "-")

	if a, b := ours.nft("", "list", "ruleset"), theirs.nft("", "list", "ruleset"); sortedListing(a) != sortedListing(b) {
		t.Errorf("nft lists the tables that nfproxy sent as\n%s\nand those that it loaded as\n%s", a, b)
	}
	a, b := ours.nft("", "--debug=netlink", "list", "ruleset"), theirs.nft("", "--debug=netlink", "list", "ruleset")
	if expressions(a) != expressions(b) {
		t.Errorf("the expressions of nfproxy are\n%s\nthose of nft are\n%s", expressions(a), expressions(b))
	}
	for i, got := range theirs.tables() {
		if diff := nft.Diff([]*nft.Table{got}, ours.tables()[i:i+1]); len(diff) > 0 {
			t.Errorf("the tables that nft loaded, read back, differ by %v", diff)
		}
	}
}

// TestOracleListing: nft can list nfproxy's tables, and the listing loads again and lists the same. Otherwise nfproxy would break
// every program that lists the ruleset.
func TestOracleListing(t *testing.T) {
	ours, again := newTestNode(t), newTestNode(t)
	ours.ruleset.Update(render.Update{Node: ours.facts, Services: examples()})
	ours.reconcile()
	listing := ours.nft("", "list", "ruleset")
	again.nft(listing, "-f", "-")
	if got := again.nft("", "list", "ruleset"); got != listing {
		t.Errorf("nft lists\n%s\nand, after loading that, lists\n%s", listing, got)
	}
	ours.nft("", "--json", "list", "ruleset")
}

// TestDumpLoads: the text of the kernel's tables, with their counters, loads into nft and yields the same text again.
func TestDumpLoads(t *testing.T) {
	ours, again := newTestNode(t), newTestNode(t)
	ours.ruleset.Update(render.Update{Node: ours.facts, Services: examples()})
	ours.reconcile()
	text := tablesText(ours.tables())
	again.nft(text, "-f", "-")
	if got := tablesText(again.tables()); got != text {
		t.Errorf("the tables are\n%s\nand, loaded and read again, are\n%s", text, got)
	}
}

// tablesText returns the text of tables.
func tablesText(tables []*nft.Table) string {
	var b strings.Builder
	for _, t := range tables {
		b.WriteString(t.String())
	}
	return b.String()
}
