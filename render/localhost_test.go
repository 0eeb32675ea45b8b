package render

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

// TestLocalhostPortsOf: which endpoints serve a TCP node port at the loopback addresses.
func TestLocalhostPortsOf(t *testing.T) {
	both := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, c := range []struct {
		name      string
		node      Node
		local     bool // externalTrafficPolicy
		endpoints string
		want      string // numbers of the endpoints at 127.0.0.1 and at ::1
		why       Reason // at 127.0.0.1
	}{
		{"policy Cluster", Node{Loopback: both}, false, "1 ready, 2 ready local, 3, 4 ready six", "1 2, 4", ReadyEndpoints},
		{"policy Local", Node{Loopback: both}, true, "1 ready, 2 ready local, 3 local, 4 ready six", "2, ", ReadyEndpoints},
		{"policy Local and none on this node", Node{Loopback: both}, true, "1 ready", ", ", NoEndpointLocal},
		{"no endpoint is ready", Node{Loopback: both}, false, "1, 2 dead", ", ", NoEndpointReady},
		{"terminating endpoints", Node{Loopback: both}, false, "1 draining, 2 dead", "1, ", TerminatingEndpoints},
		{"terminating endpoints on this node", Node{Loopback: both}, true, "1 draining local, 2 ready", "1, ", TerminatingEndpoints},
		{"hints", Node{Loopback: both, Zone: "z"}, false, "1 ready zone=z, 2 ready zone=y", "1, ", ZoneEndpoints},
		{"one address", Node{Loopback: both[1:]}, false, "1 ready, 2 ready six", "2", ReadyEndpoints},
		{"without IPv6", Node{Loopback: both, IPv4Only: true}, false, "1 ready, 2 ready six", "1", ReadyEndpoints},
		{"not asked for", Node{}, false, "1 ready, 2 ready six", "", ""},
	} {
		c.node.Name = "n"
		s := Service{ServiceName: ServiceName{"ns1", "svc1"}, Created: time.Unix(1, 0), Affinity: time.Minute, ExternalLocal: c.local,
			Ports: []Port{{Protocol: nft.UDP, Port: 80, NodePort: 30080}, {Protocol: nft.TCP, Port: 81},
				{Protocol: nft.SCTP, Port: 82, NodePort: 30082}, {Protocol: nft.TCP, Port: 80, NodePort: 30080}}}
		for text := range strings.SplitSeq(c.endpoints, ",") {
			for i := range s.Ports {
				s.Ports[i].Endpoints = append(s.Ports[i].Endpoints, hintedEndpoint(text))
			}
		}
		var got []string
		for i, p := range LocalhostPortsOf(c.node, s) {
			if want := netip.AddrPortFrom(c.node.Loopback[i], 30080); p.At != want || p.Service != s.ServiceName ||
				!p.Created.Equal(s.Created) || p.Affinity != time.Minute {
				t.Errorf("%s: %+v, want it at %s", c.name, p, want)
			}
			if i == 0 && p.At.Addr().Is4() && p.Why != c.why {
				t.Errorf("%s: because %q, want %q", c.name, p.Why, c.why)
			}
			var numbers []string
			for _, e := range p.Endpoints {
				addr := e.Addr().AsSlice()
				numbers = append(numbers, fmt.Sprint(addr[len(addr)-1]))
			}
			got = append(got, strings.Join(numbers, " "))
		}
		if got := strings.Join(got, ", "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		var other []uint16
		for _, p := range NotAtLocalhost(c.node, s) {
			other = append(other, p.NodePort)
		}
		if got := fmt.Sprint(other); len(c.node.Loopback) > 0 && got != "[30080 30082]" || len(c.node.Loopback) == 0 && got != "[]" {
			t.Errorf("%s: not served are %s", c.name, got)
		}
	}
}
