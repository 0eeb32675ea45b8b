package report_test

import (
	"slices"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestDescribeCountedSets: tables with the chains and CountedSets alone are described as the whole tables are.
func TestDescribeCountedSets(t *testing.T) {
	s := service("s", "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	s.Affinity = time.Hour
	local := service("local", "10.96.0.2:80", "10.0.0.3:80")
	local.Affinity, local.InternalLocal, local.Ports[0].Endpoints[0].Node = time.Hour, true, "n"
	node := render.Node{Name: "n", Counters: render.CountEndpoints}
	whole := build(t, render.Update{Node: node, Services: []render.Service{s, local, service("plain", "10.96.0.3:80", "10.0.0.4:80"), service("none", "10.96.0.4:80")}})
	counted := []*nft.Table{{TableID: whole[0].TableID, Sets: slices.Clone(whole[0].Sets), Chains: whole[0].Chains}}
	counted[0].Sets = slices.DeleteFunc(counted[0].Sets, func(s *nft.Set) bool { return !slices.Contains(report.CountedSets(render.CountEndpoints), s.Name) })
	want, got := report.Describe(whole[:1]).Services, report.Describe(counted).Services
	for i, s := range want {
		a, b := s.Frontends[0], got[i].Frontends[0]
		if a.Action != b.Action || !slices.Equal(a.Endpoints, b.Endpoints) || a.Kind != b.Kind ||
			a.AffinitySeconds != b.AffinitySeconds {
			t.Errorf("%s: %+v, but with the counted sets alone %+v", s.Name, a, b)
		}
	}
}
