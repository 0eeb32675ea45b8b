package render

import (
	"slices"

	"nfproxy/nft"
)

// Reason says why a choice was made.
type Reason string

// Why endpoints were chosen, or none.
const (
	ReadyEndpoints   Reason = "the ready endpoints"
	NoEndpoint       Reason = "there is no endpoint"
	NoEndpointFamily Reason = "no endpoint has an address of this family"
	NoEndpointReady  Reason = "no endpoint is ready"
)

// maxEndpoints is how many endpoints a frontend can have: slots are numbered with 16 bits.
const maxEndpoints = 1 << 16

// Select returns the endpoints that serve a port's frontends of one family, in order of their addresses, and why these.
func Select(p Port, f nft.Family) ([]Endpoint, Reason) {
	if len(p.Endpoints) == 0 {
		return nil, NoEndpoint
	}
	reason := NoEndpointFamily
	var chosen []Endpoint
	for _, e := range p.Endpoints {
		switch {
		case Family(e.Addr()) != f:
		case e.Ready:
			chosen, reason = append(chosen, e), ReadyEndpoints
		case reason == NoEndpointFamily:
			reason = NoEndpointReady
		}
	}
	slices.SortFunc(chosen, func(a, b Endpoint) int { return a.AddrPort.Compare(b.AddrPort) })
	chosen = slices.CompactFunc(chosen, func(a, b Endpoint) bool { return a.AddrPort == b.AddrPort })
	return chosen[:min(len(chosen), maxEndpoints)], reason
}
