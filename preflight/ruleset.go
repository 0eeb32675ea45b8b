package preflight

import (
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// rulesetProbe returns a probe of the complete tables of a node that serves Services of every kind.
func rulesetProbe(ipv6 bool) Probe {
	node := render.Node{
		Name:         "preflight",
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
		Addresses:    []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
		IPv4Only:     !ipv6,
		Counters:     render.CountEndpoints,
	}
	tables := render.Tables(render.Update{Node: node, Services: services()})
	return Probe{Name: "ruleset", What: "complete ruleset for Services of every kind",
		Options: []string{"everything that the probes above need; if they all succeed, report this line as a bug"}, Tables: tables}
}

// services returns one dual-stack Service of every kind.
func services() []render.Service {
	all := []render.Service{
		{ServiceName: serviceName("plain")},
		{ServiceName: serviceName("affinity"), Affinity: time.Hour},
		{ServiceName: serviceName("internal-local"), InternalLocal: true},
		{ServiceName: serviceName("external-local"), ExternalLocal: true},
		{ServiceName: serviceName("affinity-local"), ExternalLocal: true, Affinity: time.Hour},
		{ServiceName: serviceName("source-ranges"), SourceRanges: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"),
			netip.MustParsePrefix("2001:db8:1::/48")}},
		{ServiceName: serviceName("no-endpoints")},
	}
	for i := range all {
		s, n := &all[i], byte(i+1)
		s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, n}), withLastByte("fd00:10:96::", n)}
		s.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, n}), withLastByte("2001:db8:e::", n)}
		s.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, 100 + n}), withLastByte("2001:db8:f::", n)}
		for j, p := range []nft.Protocol{nft.TCP, nft.UDP, nft.SCTP} {
			s.Ports = append(s.Ports, render.Port{Name: p.String(), Protocol: p, Port: 80, NodePort: 30000 + uint16(3*i+j)})
		}
	}
	for i := range all[:len(all)-1] {
		for j := range all[i].Ports {
			all[i].Ports[j].Endpoints = endpoints()
		}
	}
	return all
}

func serviceName(n string) render.ServiceName {
	return render.ServiceName{Namespace: "preflight", Name: n}
}

// endpoints returns two endpoints of each family, the first of them on the node.
func endpoints() []render.Endpoint {
	var all []render.Endpoint
	for _, a := range []netip.Addr{netip.MustParseAddr("10.244.0.0"), netip.MustParseAddr("fd00:10:244::")} {
		first := a.Next()
		for _, e := range []render.Endpoint{{AddrPort: netip.AddrPortFrom(first, 8080), Node: "preflight"},
			{AddrPort: netip.AddrPortFrom(first.Next(), 8080), Node: "another"}} {
			e.Ready, e.Serving = true, true
			all = append(all, e)
		}
	}
	return all
}

// withLastByte returns the IPv6 address base with its last byte replaced.
func withLastByte(base string, last byte) netip.Addr {
	b := slices.Clone(netip.MustParseAddr(base).AsSlice())
	b[15] = last
	a, _ := netip.AddrFromSlice(b)
	return a
}
