package kernel

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestUnusedChains: the kernel accepts the deletion of unused balancing chains together with the change after which they are
// unused, with and without session affinity, and has the tables that the Ruleset holds.
func TestUnusedChains(t *testing.T) {
	l := newTestNode(t)
	l.reconcile()
	var endpoints []string
	most := 0
	for n := range 80 {
		endpoints = append(endpoints, fmt.Sprintf("10.244.1.%d:8080", n+1))
		sticky := service("sticky", nft.TCP, "10.96.0.2:80", endpoints...)
		sticky.Affinity = time.Minute
		l.apply(render.Update{Services: []render.Service{service("s", nft.TCP, "10.96.0.1:80", endpoints...), sticky}})
		chains := strings.Count(l.nft("", "list", "table", "ip", "nfproxy"), "chain lb-")
		most = max(most, chains)
		if rest := nft.Diff(l.tables(), l.ruleset.Tables()); len(rest) > 0 {
			t.Fatalf("%d endpoints: the kernel differs by %v", n+1, rest)
		}
	}
	if most >= len(endpoints) {
		t.Errorf("%d balancing chains for %d counts: none was deleted", most, len(endpoints))
	}
}
