package kernel

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
	"nfproxy/report"
)

// checkExplained compares the explanation of a behaviour, made from the kernel's tables, with what is expected.
func (w *trafficNode) checkExplained(t *testing.T, p nft.Protocol, b behaviour) {
	t.Helper()
	e := report.Explain(w.tables(), report.Query{Packet: w.packet(p, b)})
	want, answer := report.Sent, ""
	switch {
	case b.dropped:
		want = report.Dropped
	case len(b.reach) == 0 && p == nft.TCP:
		want, answer = report.Refused, "reset"
	case len(b.reach) == 0:
		want, answer = report.Refused, "unreachable"
	}
	if e.Outcome != want || e.Answer != answer || len(e.Why) == 0 || len(e.Problems) > 0 || (e.From.Origin == report.ThisNode) != (b.from == "node") {
		t.Errorf("explained as %+v", e)
	}
	candidates := make(map[string]report.Candidate)
	for _, c := range e.Endpoints {
		candidates[netip.AddrPortFrom(c.Address, c.Port).String()] = c
	}
	for _, name := range b.reach {
		c, ok := candidates[w.at(name, 8080)]
		if !ok || c.Masqueraded != b.masqueraded || c.Draws*len(b.reach) != c.Of || c.Local != (name != "c") || c.MasqueradeWhy == "" {
			t.Errorf("endpoint %s is explained as %+v", name, c)
		}
	}
	if len(candidates) != len(b.reach) || e.Service == nil && len(b.reach) > 0 {
		t.Errorf("explained endpoints of %+v: %+v, want %v", e.Service, e.Endpoints, b.reach)
	}
}

// TestExplainAffinity: a client is explained as new before its first connection and as remembered after it, at every frontend;
// if the map is full, it is explained so.
func TestExplainAffinity(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			s := newAffinityNodeFor(t, f, nft.TCP, 3)
			s.facts.AffinityClients = 2
			s.restart(s.service)
			frontends := s.frontends()
			for i := range 2 {
				if got := s.explain(i, frontends[0]); got.Affinity == nil || got.Affinity.State != "new" || len(got.Endpoints) != 6 {
					t.Errorf("client %d before: %+v, %+v", i, got.Affinity, got.Endpoints)
				}
				endpoint := s.connect(t, i, frontends[0])
				for _, at := range frontends {
					s.checkRemembered(t, i, at, endpoint)
				}
			}
			if got := s.explain(2, frontends[0]); got.Affinity == nil || got.Affinity.State != "full" || len(got.Endpoints) != 6 {
				t.Errorf("client of a full map: %+v, %+v", got.Affinity, got.Endpoints)
			}
		})
	}
}

// explain returns the explanation of a client's connection to a frontend.
func (s *affinityNode) explain(client int, frontend string) report.Explanation {
	s.t.Helper()
	return report.Explain(s.tables(), report.Query{Packet: nft.Packet{Hook: nft.Prerouting, Protocol: s.protocol,
		Source: netip.AddrPortFrom(s.clients[client], 50000), Destination: netip.MustParseAddrPort(frontend)}})
}

// checkRemembered fails the test unless the client is explained as remembered at an endpoint, for a time that is not over.
func (s *affinityNode) checkRemembered(t *testing.T, client int, frontend, endpoint string) {
	t.Helper()
	got := s.explain(client, frontend)
	a := got.Affinity
	if a == nil || a.State != "remembered" || a.Endpoint != endpoint || a.LeftSeconds == nil {
		t.Fatalf("client %d at %s went to %s and is explained as %+v", client, frontend, endpoint, a)
	}
	if *a.LeftSeconds <= 0 || *a.LeftSeconds > a.Seconds || a.Seconds != int(s.service.Affinity.Seconds()) {
		t.Errorf("%d of %d seconds left, want up to %v", *a.LeftSeconds, a.Seconds, s.service.Affinity)
	}
	if len(got.Endpoints) != 1 || netip.AddrPortFrom(got.Endpoints[0].Address, got.Endpoints[0].Port).String() != endpoint {
		t.Errorf("client %d at %s is explained to go to %+v, not %s", client, frontend, got.Endpoints, endpoint)
	}
}
