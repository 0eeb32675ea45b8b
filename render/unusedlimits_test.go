package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestUnusedLimitsAreBounded: however often a Service changes its limit for each client, the tables have few objects of limits that no
// Service uses, and those that another Service uses stay. A plan that is not accepted is repeated with the same result.
func TestUnusedLimitsAreBounded(t *testing.T) {
	r := NewRuleset(Node{Name: "n"})
	reconcile(r, nil)
	shared := limitedService("shared", Limits{ClientRate: perSecond(1, 5)})
	shared.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.2")}
	r.Update(Update{Node: r.node, Services: []Service{shared}})
	deleted := 0
	for i := range 1000 {
		r.Update(Update{Node: r.node, Services: []Service{limitedService("edited", Limits{ClientRate: perSecond(uint64(1+i), 5)})}})
		first, again := fmt.Sprint(r.Plan()), fmt.Sprint(r.Plan())
		if first != again {
			t.Fatalf("step %d: the plan is\n%s\nand then\n%s", i, first, again)
		}
		deleted += strings.Count(first, "delete set")
		r.Accept()
	}
	if deleted < 900 {
		t.Errorf("%d sets of clients were deleted", deleted)
	}
	sets := 0
	for _, table := range r.Tables() {
		if err := table.Validate(); err != nil {
			t.Error(err)
		}
		for _, s := range table.Sets {
			if strings.HasPrefix(s.Name, clientsSet) {
				sets++
			}
		}
	}
	if sets > 2*spareObjects {
		t.Errorf("%d sets of clients are left", sets)
	}
	if text := r.Tables()[0].String(); !strings.Contains(text, "set clients-1-second-5 ") || !strings.Contains(text, "set clients-1000-second-5 ") {
		t.Errorf("a set that a Service uses is gone:\n%s", text)
	}
	if changes := WithoutUnusedObjects(reconcile(r, r.Tables())); len(changes) > 0 {
		t.Errorf("the tables differ from those of an empty kernel: %v", changes)
	}
}
