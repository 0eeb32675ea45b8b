package report_test

import (
	"fmt"
	"net/netip"
	"testing"

	"nfproxy/render"
	"nfproxy/report"
)

// TestNotServing: the frontends that refuse or drop, and those that have no endpoint for connections from outside.
func TestNotServing(t *testing.T) {
	none, one := []report.Endpoint{}, []report.Endpoint{{}}
	frontend := func(port uint16, action string, local *[]report.Endpoint) report.Frontend {
		return report.Frontend{Port: port, Action: action, LocalEndpoints: local}
	}
	d := report.NotServing(report.Description{Services: []report.ServicePort{
		{Name: "mixed", Frontends: []report.Frontend{frontend(1, "balance", nil), frontend(2, "refuse", nil), frontend(3, "drop", nil),
			frontend(4, "balance", &one), frontend(5, "balance", &none)}},
		{Name: "fine", Frontends: []report.Frontend{frontend(6, "balance", nil)}},
	}})
	var ports []uint16
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			ports = append(ports, f.Port)
		}
	}
	if got, want := fmt.Sprint(ports), "[2 3 5]"; got != want || len(d.Services) != 1 {
		t.Errorf("ports %s of %d Services, want %s of 1", got, len(d.Services), want)
	}
}

// TestCompare: the conflicts, the disallowed addresses and the changes that are left to make.
func TestCompare(t *testing.T) {
	first, second := service("first", "10.96.0.1:80", "10.0.0.1:80"), service("second", "10.96.0.1:80", "10.0.0.2:80")
	first.ExternalIPs = []netip.Addr{netip.MustParseAddr("198.51.100.7")}
	u := render.Update{Node: render.Node{Name: "n", ExternalIPs: render.Allowlist{Only: true}}, Services: []render.Service{first, second}}
	tables := build(t, u)
	c := report.Compare(u, tables)
	if len(c.Conflicts) != 1 || c.Conflicts[0].Loser.Name != "second" {
		t.Errorf("conflicts: %v", c.Conflicts)
	}
	if got, want := fmt.Sprint(c.Disallowed), "[198.51.100.7 in spec.externalIPs of Service ns/first]"; got != want {
		t.Errorf("disallowed addresses: %s, want %s", got, want)
	}
	second.Excess, second.Unserved = render.WithoutAddresses, []netip.Addr{netip.MustParseAddr("198.51.100.8")}
	oversized := report.Compare(render.Update{Node: u.Node, Services: []render.Service{first, second}}, tables).Oversized
	if got, want := fmt.Sprint(oversized), "[ns/second: its external IPs and load balancer addresses are not served; its cluster IPs and node ports are]"; got != want {
		t.Errorf("too large: %s, want %s", got, want)
	}
	if len(c.Changes) != 0 {
		t.Errorf("changes to the desired tables: %v", c.Changes)
	}
	endpoints := tables[0].Set("endpoints")
	endpoints.Elements = endpoints.Elements[:0]
	if c = report.Compare(u, tables); len(c.Changes) != 1 {
		t.Errorf("changes after an endpoint was deleted: %v", c.Changes)
	}
}
