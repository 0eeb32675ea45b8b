package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestFewChains: the kernel accepts every change of the number of endpoints, with and without session affinity, and has the tables
// that the Ruleset holds. There is one balancing chain for each power of two.
func TestFewChains(t *testing.T) {
	l := newTestNode(t)
	l.reconcile()
	var endpoints []string
	set := func(n int) {
		t.Helper()
		sticky := service("sticky", nft.TCP, "10.96.0.2:80", endpoints[:n]...)
		sticky.Affinity = time.Minute
		l.apply(render.Update{Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", endpoints[:n]...), sticky}})
		if rest := nft.Diff(l.tables(), l.ruleset.Tables()); len(rest) > 0 {
			t.Fatalf("%d endpoints: the kernel differs by %v", n, rest)
		}
	}
	for n := range 80 {
		endpoints = append(endpoints, fmt.Sprintf("10.244.1.%d:8080", n+1))
		set(n + 1)
	}
	for n := 79; n >= 0; n-- {
		set(n)
	}
	if chains := strings.Count(l.nft("", "list", "table", "ip", "nfproxy"), "chain lb-"); chains != 7 {
		t.Errorf("%d balancing chains, want those of 2, 4, 8, 16, 32, 64 and 128", chains)
	}
}
