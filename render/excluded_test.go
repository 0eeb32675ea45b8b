package render

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
)

// TestExcluded: every endpoint is either selected or excluded with a reason, whatever its conditions and hints.
func TestExcluded(t *testing.T) {
	n := Node{Name: "here", Zone: "a"}
	ready := func(at, node string, hints *Hints) Endpoint {
		return Endpoint{AddrPort: netip.MustParseAddrPort(at), Node: node, Ready: true, Serving: true, Hints: hints}
	}
	terminating := ready("10.0.0.3:80", "here", nil)
	terminating.Ready, terminating.Terminating = false, true
	terminated := ready("10.0.0.4:80", "here", nil)
	terminated.Ready, terminated.Serving, terminated.Terminating = false, false, true
	unready := ready("10.0.0.5:80", "here", nil)
	unready.Ready, unready.Serving = false, false
	other := ready("[fd00::1]:80", "here", nil)
	drained := ready("10.0.0.6:80", "here", nil)
	drained.Drained = true
	zone := func(z string) *Hints { return &Hints{Zones: []string{z}} }
	node := func(n string) *Hints { return &Hints{Nodes: []string{n, "too"}} }
	for _, c := range []struct {
		name      string
		endpoints []Endpoint
		local     bool
		want      map[string]Reason
	}{
		{"conditions", []Endpoint{ready("10.0.0.1:80", "here", nil), terminating, terminated, unready, other}, false, map[string]Reason{
			"10.0.0.3:80": TerminatingAway, "10.0.0.4:80": TerminatingDone, "10.0.0.5:80": NotReady, "[fd00::1]:80": OtherFamily}},
		{"terminating endpoints serve", []Endpoint{terminating, terminated, unready}, false, map[string]Reason{"10.0.0.4:80": TerminatingDone, "10.0.0.5:80": NotReady}},
		{"zones", []Endpoint{ready("10.0.0.1:80", "here", zone("a")), ready("10.0.0.2:80", "there", zone("b"))}, false,
			map[string]Reason{"10.0.0.2:80": HintedOtherZones + ": b"}},
		{"nodes", []Endpoint{ready("10.0.0.1:80", "here", node("here")), ready("10.0.0.2:80", "there", node("there"))}, false,
			map[string]Reason{"10.0.0.2:80": HintedOtherNodes + ": there, too"}},
		{"local endpoints ignore hints", []Endpoint{ready("10.0.0.1:80", "here", zone("b")), ready("10.0.0.2:80", "there", zone("a"))}, true,
			map[string]Reason{"10.0.0.2:80": NotOnThisNode}},
		{"terminating local endpoints serve", []Endpoint{ready("10.0.0.2:80", "there", nil), terminating}, true, map[string]Reason{"10.0.0.2:80": NotOnThisNode}},
		{"a ready local endpoint", []Endpoint{ready("10.0.0.1:80", "here", nil), terminating}, true, map[string]Reason{"10.0.0.3:80": TerminatingAway}},
		{"weight 0", []Endpoint{ready("10.0.0.1:80", "here", nil), drained}, false, map[string]Reason{"10.0.0.6:80": WeightZero}},
		{"only weight 0", []Endpoint{drained}, false, map[string]Reason{"10.0.0.6:80": WeightZero}},
		{"one address, ready and not ready", []Endpoint{ready("10.0.0.5:80", "here", nil), unready}, false, nil},
	} {
		got := Excluded(n, Port{Endpoints: c.endpoints}, nft.IPv4, c.local)
		for _, e := range got {
			if e.Reason != c.want[e.AddrPort.String()] {
				t.Errorf("%s: %s: the reason is %q, want %q", c.name, e.AddrPort, e.Reason, c.want[e.AddrPort.String()])
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %d endpoints are excluded, want %d", c.name, len(got), len(c.want))
		}
	}
}
