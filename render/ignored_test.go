package render

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"nfproxy/nft"
)

// TestIgnoredAnnotationsOf: a Service with more usable endpoints of a family than a table has slots hashes nothing, which is reported for
// each such port, whatever the exact number; one with as many is hashed.
func TestIgnoredAnnotationsOf(t *testing.T) {
	node := Node{MaglevSize: 5}
	port := func(name string, v4, v6 int) Port {
		p := Port{Name: name, Protocol: nft.TCP, Port: 80}
		for i := range v4 {
			p.Endpoints = append(p.Endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(fmt.Sprintf("10.244.1.%d:80", i+1)), Ready: true, Serving: true})
		}
		for i := range v6 {
			p.Endpoints = append(p.Endpoints, Endpoint{AddrPort: netip.MustParseAddrPort(fmt.Sprintf("[fd00::%d]:80", i+1)), Ready: true, Serving: true})
		}
		return p
	}
	given := IgnoredAnnotation{Object: "Service ns/web", Field: "f", Detail: "d"}
	tooMany := func(port string) IgnoredAnnotation {
		return IgnoredAnnotation{"Service ns/web", "metadata.annotations[nfproxy.io/lb-algorithm]",
			fmt.Sprintf("port %q has more endpoints of a family than --maglev-table-size has slots, 5; they are chosen at random", port)}
	}
	for _, tc := range []struct {
		hashing Hashing
		ports   []Port
		want    []IgnoredAnnotation
	}{
		{NoHashing, []Port{port("a", 9, 0)}, []IgnoredAnnotation{given}},
		{HashClients, []Port{port("a", 5, 5)}, []IgnoredAnnotation{given}},
		{HashClients, []Port{port("a", 6, 1), port("b", 1, 1), port("c", 0, 7)}, []IgnoredAnnotation{given, tooMany("a"), tooMany("c")}},
		{HashConnections, []Port{port("a", 9, 9)}, []IgnoredAnnotation{given, tooMany("a")}},
	} {
		s := Service{ServiceName: ServiceName{"ns", "web"}, Hashing: tc.hashing, Ports: tc.ports, Ignored: []IgnoredAnnotation{given}}
		got := IgnoredAnnotationsOf(node, s)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v: %v, want %v", tc.hashing, got, tc.want)
		}
		for _, p := range tc.ports { // as the rules do
			ignored := slices.Contains(got, tooMany(p.Name))
			selected := Select(node, p, nft.IPv4)
			if len(p.Endpoints) > 0 && p.Endpoints[0].Addr().Is4() && tc.hashing != NoHashing && node.hashes(s, selected.Cluster) == ignored {
				t.Errorf("%v, port %s: ignored %v, hashed %v", tc.hashing, p.Name, ignored, !ignored)
			}
		}
	}
}
