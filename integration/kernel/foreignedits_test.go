package kernel

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/render"
)

// foreignEdits are changes of nfproxy's tables that another program can make and that leave every name in place.
var foreignEdits = []struct{ name, commands string }{
	{"a catch-all element in a verdict map", "add element ip nfproxy services { * : drop }"},
	{"a catch-all element of IPv6", "add element ip6 nfproxy services { * : drop }"},
	{"a catch-all element in a set", "add element ip nfproxy cluster-ips { * }"},
	{"a catch-all element in a map", "add element ip nfproxy endpoints { * : 10.0.0.1 . 80 }"},
	{"slots of a frontend that does not exist", "add element ip nfproxy endpoints { 10.96.9.9 . tcp . 80 . 0 : 10.0.0.1 . 80, 10.96.9.9 . tcp . 80 . 1 : 10.0.0.1 . 80 }"},
	{"a slot past the last endpoint", "add element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 4000 : 10.0.0.1 . 80 }"},
	{"a slot with another endpoint", "delete element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 }\n" +
		"add element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 : 10.0.0.1 . 80 }"},
	{"a slot that is gone", "delete element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 }"},
	{"a slot in the place of another one", "delete element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 }\n" +
		"add element ip nfproxy endpoints { 10.96.9.9 . tcp . 80 . 0 : 10.0.0.1 . 80 }"},
	{"a catch-all element that balances", "add element ip nfproxy services { * : goto lb-2 }"},
	{"a dormant table", "add table ip nfproxy { flags dormant; }"},
	{"the policy drop", "add chain ip nfproxy prerouting { policy drop; }"},
	{"a rule with an anonymous set", "add rule ip nfproxy refuse ip saddr { 10.0.0.1, 10.0.0.2 } drop"},
	{"a rule with an anonymous verdict map", "add rule ip nfproxy refuse ip saddr vmap { 10.0.0.1 : drop, 10.0.0.2 : goto lb-2 }"},
	{"a rule with an anonymous chain", "add rule ip nfproxy refuse ip saddr 10.0.0.1 jump { drop; }"},
	{"a rule with a comment", `insert rule ip nfproxy masquerade-all masquerade fully-random comment "a comment"`},
	{"a base chain of another type", "add chain ip nfproxy other { type filter hook forward priority 0; policy drop; }"},
	{"a base chain of the same type", "add chain ip nfproxy other { type nat hook prerouting priority -150; policy drop; }"},
	{"chains that jump to each other", "add chain ip nfproxy a\nadd chain ip nfproxy b\nadd rule ip nfproxy a jump b\n" +
		"add rule ip nfproxy b goto lb-2\ninsert rule ip nfproxy dispatch jump a"},
	{"a map that leads to nfproxy's chains", "add map ip nfproxy mine { type ipv4_addr : verdict; elements = { 10.0.0.1 : goto lb-2, * : goto refuse } }\n" +
		"insert rule ip nfproxy dispatch ip daddr vmap @mine"},
	{"an element with another verdict", "delete element ip nfproxy services { 10.96.0.1 . tcp . 80 }\n" +
		"add element ip nfproxy services { 10.96.0.1 . tcp . 80 : drop }"},
	{"an element that jumps", "delete element ip nfproxy services { 10.96.0.1 . tcp . 80 }\n" +
		"add element ip nfproxy services { 10.96.0.1 . tcp . 80 : jump lb-4 }"},
	{"an element with another comment", "delete element ip nfproxy connections { 10.96.0.8 . tcp . 80 }\n" +
		"add element ip nfproxy connections { 10.96.0.8 . tcp . 80 comment \"a comment of another program\" : goto remember-local/test/sticky/tcp/main }"},
	{"an interval over all addresses", "flush set ip nfproxy local-sources\nadd element ip nfproxy local-sources { 0.0.0.0/0 }"},
	{"adjacent intervals", "add element ip nfproxy local-sources { 10.245.0.0/16, 10.243.255.255, 255.255.255.255, 0.0.0.0 }"},
	{"masquerading to few ports", "flush chain ip nfproxy masquerade-all\n" +
		"add rule ip nfproxy masquerade-all meta l4proto tcp masquerade to :1024-1025 fully-random\n" +
		"add rule ip nfproxy masquerade-all masquerade fully-random"},
	{"masquerading with another flag", "flush chain ip nfproxy masquerade-all\nadd rule ip nfproxy masquerade-all masquerade fully-random, persistent"},
	{"a rejection with another code", "flush chain ip nfproxy refuse\nadd rule ip nfproxy refuse reject with tcp reset\n" +
		"add rule ip nfproxy refuse reject with icmp type admin-prohibited"},
	{"a rule that also marks packets", "flush chain ip nfproxy masquerade-all\nadd rule ip nfproxy masquerade-all meta mark set 1 masquerade fully-random"},
	{"clients that are added and not refreshed", "flush chain ip nfproxy learn/test/sticky-too/udp/80\n" +
		"add rule ip nfproxy learn/test/sticky-too/udp/80 add @affinity/test/sticky-too/udp/80 { ip saddr timeout 1m : ip daddr . th dport } accept\n" +
		"add rule ip nfproxy learn/test/sticky-too/udp/80 counter accept"},
	{"a set of the same type whose elements expire", "flush chain ip nfproxy source-ranges\ndelete set ip nfproxy source-ranges\n" +
		"add set ip nfproxy source-ranges { type ipv4_addr . inet_proto . inet_service . ipv4_addr; flags interval, timeout; timeout 1h; " +
		"elements = { 203.0.113.10 . tcp . 443 . 192.0.2.0/24, 203.0.113.10 . tcp . 443 . 198.51.100.0/24, 203.0.113.10 . tcp . 443 . 203.0.113.10, " +
		"203.0.113.10 . tcp . 8443 . 192.0.2.0/24, 203.0.113.10 . tcp . 8443 . 198.51.100.0/24, 203.0.113.10 . tcp . 8443 . 203.0.113.10 } }\n" +
		"add rule ip nfproxy source-ranges ip daddr . meta l4proto . th dport . ip saddr @source-ranges ip daddr . meta l4proto . th dport vmap @admitted\n" +
		"add rule ip nfproxy source-ranges drop"},
	{"a set of another type", "flush chain ip nfproxy source-ranges\ndelete set ip nfproxy source-ranges\n" +
		"add set ip nfproxy source-ranges { type mark; elements = { 1, 2 } }"},
	{"a map of counters in the place of a map of verdicts", "flush chain ip nfproxy delivered-connections\ndelete map ip nfproxy delivered\n" +
		"add map ip nfproxy delivered { type ipv4_addr . inet_proto . inet_service : counter; }"},
	{"a full affinity map of one client", "flush chain ip nfproxy affinity/test/sticky-too/udp/80\nflush chain ip nfproxy learn/test/sticky-too/udp/80\n" +
		"flush chain ip nfproxy remember-external/test/sticky-too/udp/80\nflush chain ip nfproxy remember/test/sticky-too/udp/80\n" +
		"delete map ip nfproxy affinity/test/sticky-too/udp/80\n" +
		"add map ip nfproxy affinity/test/sticky-too/udp/80 { type ipv4_addr : ipv4_addr . inet_service; size 1; flags dynamic, timeout; }"},
}

// TestForeignEdits: whatever another program changes in nfproxy's tables, the next comparison restores them, as nft lists
// them. This holds if the kernel counts the elements of sets, so that slots are read by key, and if it does not.
func TestForeignEdits(t *testing.T) {
	for _, without := range []bool{false, true} {
		l := newTestNode(t)
		l.kernel.WithoutCounts = without
		l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
		l.reconcile()
		l.checkForeignEdits(t, fmt.Sprintf("without counts %t/", without))
	}
}

func (l *testNode) checkForeignEdits(t *testing.T, prefix string) {
	want := l.nft("", "list", "ruleset")
	for _, edit := range foreignEdits {
		t.Run(prefix+edit.name, func(t *testing.T) {
			out, err := runNFT(l.node, edit.commands+"\n", "-f", "-")
			if err != nil {
				t.Fatalf("nft: %v\n%s", err, out)
			}
			if l.nft("", "list", "ruleset") == want {
				t.Fatal("the command changes nothing")
			}
			l.reconcile()
			if got := l.nft("", "list", "ruleset"); sortedListing(got) != sortedListing(want) {
				t.Errorf("nft lists, compared with before:\n%s", cmp.Diff(sortedListing(want), sortedListing(got)))
			}
		})
	}
}
