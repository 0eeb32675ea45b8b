package render

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
)

// TestExcluded: every endpoint is chosen or has a reason why not, whatever the conditions and hints.
func TestExcluded(t *testing.T) {
	n := Node{Name: "here", Zone: "a"}
	ready := func(at, node string, hints *Hints) Endpoint {
		return Endpoint{AddrPort: netip.MustParseAddrPort(at), Node: node, Ready: true, Serving: true, Hints: hints}
	}
	ending := ready("10.0.0.3:80", "here", nil)
	ending.Ready, ending.Terminating = false, true
	ended := ready("10.0.0.4:80", "here", nil)
	ended.Ready, ended.Serving, ended.Terminating = false, false, true
	sick := ready("10.0.0.5:80", "here", nil)
	sick.Ready, sick.Serving = false, false
	other := ready("[fd00::1]:80", "here", nil)
	zone := func(z string) *Hints { return &Hints{Zones: []string{z}} }
	node := func(n string) *Hints { return &Hints{Nodes: []string{n, "too"}} }
	for _, c := range []struct {
		name      string
		endpoints []Endpoint
		local     bool
		want      map[string]Reason
	}{
		{"conditions", []Endpoint{ready("10.0.0.1:80", "here", nil), ending, ended, sick, other}, false, map[string]Reason{
			"10.0.0.3:80": TerminatingAway, "10.0.0.4:80": TerminatingDone, "10.0.0.5:80": NotReady, "[fd00::1]:80": OtherFamily}},
		{"terminating ones serve", []Endpoint{ending, ended, sick}, false, map[string]Reason{"10.0.0.4:80": TerminatingDone, "10.0.0.5:80": NotReady}},
		{"zones", []Endpoint{ready("10.0.0.1:80", "here", zone("a")), ready("10.0.0.2:80", "there", zone("b"))}, false,
			map[string]Reason{"10.0.0.2:80": HintedOtherZones + ": b"}},
		{"nodes", []Endpoint{ready("10.0.0.1:80", "here", node("here")), ready("10.0.0.2:80", "there", node("there"))}, false,
			map[string]Reason{"10.0.0.2:80": HintedOtherNodes + ": there, too"}},
		{"local, hints do not count", []Endpoint{ready("10.0.0.1:80", "here", zone("b")), ready("10.0.0.2:80", "there", zone("a"))}, true,
			map[string]Reason{"10.0.0.2:80": NotOnThisNode}},
		{"local, terminating ones serve", []Endpoint{ready("10.0.0.2:80", "there", nil), ending}, true, map[string]Reason{"10.0.0.2:80": NotOnThisNode}},
		{"local, ready ones are here", []Endpoint{ready("10.0.0.1:80", "here", nil), ending}, true, map[string]Reason{"10.0.0.3:80": TerminatingAway}},
		{"an address that is ready elsewhere in the list", []Endpoint{ready("10.0.0.5:80", "here", nil), sick}, false, nil},
	} {
		got := Excluded(n, Port{Endpoints: c.endpoints}, nft.IPv4, c.local)
		for _, e := range got {
			if e.Reason != c.want[e.AddrPort.String()] {
				t.Errorf("%s: %s: %q", c.name, e.AddrPort, e.Reason)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %d are excluded, not %d", c.name, len(got), len(c.want))
		}
	}
}
