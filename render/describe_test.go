package render

import (
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
)

// TestDescribeCountedSets: the sets that are read for the counters, with the chains, tell the same of every Service as the
// whole tables.
func TestDescribeCountedSets(t *testing.T) {
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	s.Affinity = time.Hour
	local := testService("local", 1, "10.96.0.2:80", "10.0.0.3:80")
	local.Affinity, local.InternalLocal, local.Ports[0].Endpoints[0].Node = time.Hour, true, "n"
	node := Node{Name: "n", Counters: CountEndpoints}
	r := NewRuleset(node)
	r.Update(Update{Node: node, Services: []Service{s, local, testService("plain", 1, "10.96.0.3:80", "10.0.0.4:80"), testService("none", 1, "10.96.0.4:80")}})
	r.Reconcile(nil)
	whole := r.Tables()
	counted := []*nft.Table{{TableID: whole[0].TableID, Sets: slices.Clone(whole[0].Sets), Chains: whole[0].Chains}}
	counted[0].Sets = slices.DeleteFunc(counted[0].Sets, func(s *nft.Set) bool { return !slices.Contains(CountedSets(CountEndpoints), s.Name) })
	want, got := Describe(whole[:1]).Services, Describe(counted).Services
	for i, s := range want {
		a, b := s.Frontends[0], got[i].Frontends[0]
		if a.Action != b.Action || !slices.Equal(a.Endpoints, b.Endpoints) || a.Kind != b.Kind ||
			a.AffinitySeconds != b.AffinitySeconds {
			t.Errorf("%s: %+v, and by the counted sets %+v", s.Name, a, b)
		}
	}
}
