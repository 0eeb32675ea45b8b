package report_test

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
)

// service returns a Service with one TCP port and endpoints on node "n".
func service(name, frontend string, endpoints ...string) render.Service {
	at := netip.MustParseAddrPort(frontend)
	p := render.Port{Name: "p", Protocol: nft.TCP, Port: at.Port()}
	for _, e := range endpoints {
		p.Endpoints = append(p.Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true, Node: "n"})
	}
	return render.Service{ServiceName: render.ServiceName{Namespace: "ns", Name: name}, ClusterIPs: []netip.Addr{at.Addr()}, Ports: []render.Port{p}}
}

// build returns the tables of an update.
func build(t *testing.T, u render.Update) []*nft.Table {
	t.Helper()
	return render.Tables(u)
}
