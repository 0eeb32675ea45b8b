package render

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHealthCheckOf: which Services have a health check, and which endpoints count. The endpoints of ports are separated by
// semicolons.
func TestHealthCheckOf(t *testing.T) {
	for _, c := range []struct {
		name      string
		node      string
		port      uint16
		local     bool
		endpoints string
		want      int // local endpoints in IPv4, -1 for no health check
		six       int // local endpoints in IPv6
	}{
		{"no port", "n", 0, true, "1 ready local", -1, 0},
		{"policy Cluster", "n", 30000, false, "1 ready local", -1, 0},
		{"no endpoint", "n", 30000, true, "", 0, 0},
		{"not ready", "n", 30000, true, "1 local", 0, 0},
		{"elsewhere", "n", 30000, true, "1 ready, 2 ready", 0, 0},
		{"terminating", "n", 30000, true, "1 draining local, 2 dead local", 0, 0},
		{"all conditions", "n", 30000, true, "1 ready local, 2 draining local, 3 ready, 4 local, 5 ready local", 2, 0},
		{"an address at two ports", "n", 30000, true, "1 ready local, 2 ready local; 2 ready local, 3 ready local", 3, 0},
		{"ready at one port only", "n", 30000, true, "1 local; 1 ready local", 1, 0},
		{"both families", "n", 30000, true, "1 ready local, 2 ready local, 1 ready local six", 2, 1},
		{"hints are ignored", "n", 30000, true, "1 ready local zone=y node=m", 1, 0},
		{"the highest port", "n", 65535, true, "1 ready local", 1, 0},
		{"a node without a name", "", 30000, true, "1 ready", 0, 0},
	} {
		s := Service{ServiceName: ServiceName{"ns1", "svc1"}, HealthCheckNodePort: c.port, ExternalLocal: c.local,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")}}
		for i, list := range strings.Split(c.endpoints, ";") {
			s.Ports = append(s.Ports, Port{Port: uint16(i + 1)})
			for text := range strings.SplitSeq(list, ",") {
				if text != "" {
					s.Ports[i].Endpoints = append(s.Ports[i].Endpoints, hintedEndpoint(text))
				}
			}
		}
		var want HealthCheck
		if c.want >= 0 {
			want = HealthCheck{Service: ServiceName{"ns1", "svc1"}, Port: c.port, IPv4: FamilyCheck{true, c.want}, IPv6: FamilyCheck{true, c.six}}
		}
		if got, wanted := HealthCheckOf(Node{Name: c.node}, s); got != want || wanted != (c.want >= 0) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, wanted, want)
		}
	}
}

// TestHealthCheckOfOneFamily: a Service has no health check in a family without cluster IP.
func TestHealthCheckOfOneFamily(t *testing.T) {
	s := Service{HealthCheckNodePort: 30000, ExternalLocal: true, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []Port{{Endpoints: []Endpoint{hintedEndpoint("1 ready local"), hintedEndpoint("1 ready local six")}}}}
	got, _ := HealthCheckOf(Node{Name: "n"}, s)
	if want := (FamilyCheck{true, 1}); got.IPv4 != want || got.IPv6 != (FamilyCheck{}) {
		t.Errorf("the health check is %+v", got)
	}
}

// TestHealthCheckPrecedes: of two Services with one health check node port the older takes precedence, then the first by name, as
// with claims to a frontend.
func TestHealthCheckPrecedes(t *testing.T) {
	check := func(namespace, name string, created int64) HealthCheck {
		s := Service{ServiceName: ServiceName{namespace, name}, Created: time.Unix(created, 0), HealthCheckNodePort: 30000, ExternalLocal: true}
		c, _ := HealthCheckOf(Node{}, s)
		return c
	}
	for _, c := range []struct {
		name          string
		winner, loser HealthCheck
	}{
		{"the older", check("ns", "z", 1), check("ns", "a", 2)},
		{"first by name", check("ns", "a", 1), check("ns", "b", 1)},
		{"first by namespace", check("a", "z", 1), check("b", "a", 1)},
		{"a namespace that is a prefix", check("a", "z", 1), check("a-b", "a", 1)},
	} {
		if !c.winner.Precedes(c.loser) || c.loser.Precedes(c.winner) {
			t.Errorf("%s: %s does not precede %s, or both precede each other", c.name, c.winner.Service, c.loser.Service)
		}
	}
	same := check("ns", "a", 1)
	if same.Precedes(same) {
		t.Error("a health check precedes itself")
	}
	local := Service{Created: time.Unix(1, 0).In(time.FixedZone("", 3600)), HealthCheckNodePort: 30000, ExternalLocal: true}
	utc := local
	utc.Created = local.Created.UTC()
	a, _ := HealthCheckOf(Node{}, local)
	b, _ := HealthCheckOf(Node{}, utc)
	if a != b {
		t.Error("the health check depends on the time zone of the creation time")
	}
}

// TestHealthCheckAddresses: health checks are served at the addresses of node ports, at the wildcard address if these are all
// addresses of a family, and never at link-local IPv6 addresses.
func TestHealthCheckAddresses(t *testing.T) {
	addresses := addrs("169.254.1.1", "192.0.2.1", "2001:db8::1", "fe80::1")
	for _, c := range []struct {
		all      Families
		ipv4Only bool
		want     []netip.Addr
	}{
		{want: addrs("169.254.1.1", "192.0.2.1", "2001:db8::1")},
		{all: Families{IPv4: true}, want: addrs("0.0.0.0", "2001:db8::1")},
		{all: Families{IPv6: true}, want: addrs("::", "169.254.1.1", "192.0.2.1")},
		{all: Families{IPv4: true, IPv6: true}, want: addrs("0.0.0.0", "::")},
		{all: Families{IPv4: true, IPv6: true}, ipv4Only: true, want: addrs("0.0.0.0")},
	} {
		n := Node{Addresses: addresses, AllAddresses: c.all, IPv4Only: c.ipv4Only}
		if got := n.HealthCheckAddresses(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.all, got, c.want)
		}
	}
}
