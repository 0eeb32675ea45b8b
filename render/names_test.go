package render

import (
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

// TestLabels: ParseLabel returns what Label wrote, without the port if the label would be too long for nft, and rejects comments
// of other programs.
func TestLabels(t *testing.T) {
	long := ServiceName{strings.Repeat("n", 63), strings.Repeat("s", 63)}
	for _, c := range []struct {
		name       ServiceName
		port, want string
	}{
		{ServiceName{"ns", "web"}, "http", "http"},
		{ServiceName{"ns", "web"}, "", ""},
		{long, "p", ""},
	} {
		label := Label(c.name, c.port)
		if name, port, ok := ParseLabel(label); !ok || name != c.name || port != c.want || len(label) > maxLabel {
			t.Errorf("Label(%s, %q) = %q, parsed as %s, %q, %t", c.name, c.port, label, name, port, ok)
		}
	}
	for _, comment := range []string{"", "web", "a b/c", "ns/web\x00", "ns/wéb"} {
		if name, port, ok := ParseLabel(comment); ok {
			t.Errorf("ParseLabel(%q) = %s, %q", comment, name, port)
		}
	}
}

// TestChainNames: the verdicts to balancing chains and affinity chains are recognized, and no others.
func TestChainNames(t *testing.T) {
	for _, b := range []BalancingChain{{nft.IPv4, false, 2, NoHashing}, {nft.IPv6, true, 65536, NoHashing}, {nft.IPv4, true, 1021, HashClients}, {nft.IPv6, false, 251, HashConnections}} {
		if got, ok := BalancingChainOf(b.Family, b.Verdict()); !ok || got != b {
			t.Errorf("the chain of %s is %+v, %t, want %+v", b.Verdict(), got, ok, b)
		}
	}
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")
	s.Affinity, s.InternalLocal = time.Hour, true
	local := 0
	for _, c := range RulesOf(Node{Name: "n"}, s).Dedicated.chains {
		if IsLocalAffinity(nft.GotoChain(c.Name)) {
			local++
		}
		if DedicatedName(c.Name) != c.Name {
			t.Errorf("%s is not a dedicated name", c.Name)
		}
	}
	if local != 1 {
		t.Errorf("%d chains send clients to local endpoints, want 1", local)
	}
	for _, name := range []string{"lb-", "lb-x", "local-lb-x", RefuseChain, "affinity/ns/s/tcp/p", "remember-local/ns/s/tcp/p"} {
		v := nft.GotoChain(name)
		if b, ok := BalancingChainOf(nft.IPv4, v); ok || IsLocalAffinity(v) {
			t.Errorf("the verdict to %s is recognized: %+v", name, b)
		}
	}
	if DedicatedName(RefuseChain) != "" {
		t.Errorf("%s is a dedicated name", RefuseChain)
	}
}
