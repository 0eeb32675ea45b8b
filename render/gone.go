package render

import (
	"net/netip"
	"slices"
	"time"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// maxGoneEndpoints is the largest number of endpoints that GoneEndpoints remembers as gone, about 100 bytes each.
const maxGoneEndpoints = 1 << 16

// Reasons why a TCP flow belongs to an endpoint that is gone, or not.
const (
	FlowGone    Reason = "the endpoint has been in no EndpointSlice of any Service for longer than the delay"
	FlowNotGone Reason = "the endpoint is in an EndpointSlice, has left the last one within the delay, or was never in one"
	FlowDirect  Reason = "the flow is not translated"
	FlowClosed  Reason = "the connection is closed"
)

// GoneEndpoints finds the TCP connections through Services whose endpoints have been in no EndpointSlice of any Service for a
// delay. A terminating endpoint is in a slice. Without its conntrack entry the next packet of such a connection is a new
// connection, which another endpoint or chain refuse answers with a reset.
//
// Take applies an Update, and Programmed notes that the kernel has it: then the delay of the endpoints that left begins. Next
// returns when the next cleanup is due. Begin returns the flows to list, Judge is called for each of them, and CleanedUp or
// Failed reports the result. There is at most one cleanup per delay, whatever the number of endpoints.
//
// A new GoneEndpoints knows nothing of endpoints that left before.
type GoneEndpoints struct {
	delay     time.Duration
	services  map[ServiceName]tcpService
	frontends map[Frontend]int       // the number of TCP ports with each
	endpoints map[netip.AddrPort]int // the number of TCP ports with each

	// leaving are the endpoints that left since the last call of Programmed. gone are those that left before, with the time of
	// that call. departures has them in order of time, and others that came back since.
	leaving    map[netip.AddrPort]bool
	gone       map[netip.AddrPort]time.Time
	departures []departure
	began      time.Time // the last cleanup that did not fail, zero for none
	forgotten  int       // endpoints for which there was no room since the last call of Forgotten
}

// tcpService holds the frontends and the endpoints of the TCP ports of a Service, each as often as ports have it.
type tcpService struct {
	frontends []Frontend
	endpoints []netip.AddrPort
}

// departure is an endpoint that left, and when.
type departure struct {
	endpoint netip.AddrPort
	since    time.Time
}

// NewGoneEndpoints returns a GoneEndpoints without Services.
func NewGoneEndpoints(delay time.Duration) *GoneEndpoints {
	return &GoneEndpoints{
		delay:     delay,
		services:  make(map[ServiceName]tcpService),
		frontends: make(map[Frontend]int),
		endpoints: make(map[netip.AddrPort]int),
		leaving:   make(map[netip.AddrPort]bool),
		gone:      make(map[netip.AddrPort]time.Time),
	}
}

// Take applies an Update. An endpoint that comes back is no longer gone, at once.
func (g *GoneEndpoints) Take(u Update) {
	for _, name := range u.Removed {
		g.replace(name, tcpService{})
		delete(g.services, name)
	}
	for _, s := range u.Services {
		now := tcpServiceOf(u.Node, s)
		if s.Excess.ServesNothing() { // its endpoints are unknown, and need not have left
			now.endpoints = g.services[s.ServiceName].endpoints
		}
		g.replace(s.ServiceName, now)
		g.services[s.ServiceName] = now
	}
}

func tcpServiceOf(n Node, s Service) (t tcpService) {
	addresses := FrontendAddressesOf(n, s)
	for _, p := range s.Ports {
		if p.Protocol != nft.TCP {
			continue
		}
		for _, at := range p.Frontends(addresses) {
			t.frontends = append(t.frontends, Frontend{at, nft.TCP})
		}
		for _, e := range p.Endpoints {
			t.endpoints = append(t.endpoints, e.AddrPort)
		}
	}
	return t
}

// replace replaces what is counted for a Service. It adds before it subtracts, so that what stays never goes.
func (g *GoneEndpoints) replace(name ServiceName, now tcpService) {
	had := g.services[name]
	for _, f := range now.frontends {
		g.frontends[f]++
	}
	for _, f := range had.frontends {
		if g.frontends[f]--; g.frontends[f] == 0 {
			delete(g.frontends, f)
		}
	}
	for _, e := range now.endpoints {
		if g.endpoints[e]++; g.endpoints[e] == 1 {
			delete(g.leaving, e)
			delete(g.gone, e)
		}
	}
	for _, e := range had.endpoints {
		if g.endpoints[e]--; g.endpoints[e] == 0 {
			delete(g.endpoints, e)
			g.leave(e)
		}
	}
}

// leave notes that an endpoint is in no slice any more.
func (g *GoneEndpoints) leave(e netip.AddrPort) {
	if len(g.leaving) == maxGoneEndpoints {
		g.forgotten++
		return
	}
	g.leaving[e] = true
}

// Programmed notes that the kernel has what Take applied.
func (g *GoneEndpoints) Programmed(now time.Time) {
	for e := range g.leaving {
		if len(g.gone) >= maxGoneEndpoints {
			g.forgotten++
			continue
		}
		g.gone[e] = now
		g.departures = append(g.departures, departure{e, now})
	}
	clear(g.leaving)
	if len(g.departures) > 2*len(g.gone)+64 {
		g.departures = slices.DeleteFunc(g.departures, func(d departure) bool { return !g.isGone(d) })
	}
}

// isGone reports whether the endpoint has not come back since its departure.
func (g *GoneEndpoints) isGone(d departure) bool {
	since, gone := g.gone[d.endpoint]
	return gone && since.Equal(d.since)
}

// Forgotten returns the number of endpoints since the last call that left while maxGoneEndpoints others were gone. The entries of
// their connections stay.
func (g *GoneEndpoints) Forgotten() int {
	n := g.forgotten
	g.forgotten = 0
	return n
}

// Next returns when the next cleanup is due. It returns false if no endpoint is gone.
func (g *GoneEndpoints) Next() (due time.Time, ok bool) {
	for len(g.departures) > 0 && !g.isGone(g.departures[0]) {
		g.departures = g.departures[1:]
	}
	if len(g.departures) == 0 {
		g.departures = nil
		return time.Time{}, false
	}
	due = g.departures[0].since.Add(g.delay)
	if !g.began.IsZero() && due.Before(g.began.Add(g.delay)) {
		due = g.began.Add(g.delay)
	}
	return due, true
}

// GoneCleanup is one cleanup: the flows to list and judge.
type GoneCleanup struct {
	// Filters select the flows, one filter for each family.
	Filters []conntrack.Filter
	until   time.Time // the endpoints that left until then
}

// Begin begins a cleanup. It returns false if none is due. The caller reports the result by CleanedUp or Failed.
func (g *GoneEndpoints) Begin(now time.Time) (GoneCleanup, bool) {
	if due, ok := g.Next(); !ok || due.After(now) {
		return GoneCleanup{}, false
	}
	c := GoneCleanup{until: now.Add(-g.delay)}
	for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
		if f, ok := g.filter(family, c.until); ok {
			c.Filters = append(c.Filters, f)
		}
	}
	g.began = now
	return c, true
}

// filter returns the narrowest filter that selects the connections to the endpoints of a family that left until a time: the kernel
// compares one endpoint, or one port, which the endpoints of one Service port have in common. It returns false if there are none.
func (g *GoneEndpoints) filter(family nft.Family, until time.Time) (conntrack.Filter, bool) {
	f, found := conntrack.Filter{Family: family, Protocol: nft.TCP, DestinationNAT: true}, false
	for _, d := range g.departures {
		switch {
		case d.since.After(until):
			return f, found
		case Family(d.endpoint.Addr()) != family || !g.isGone(d):
		case !found:
			f.Endpoint, f.EndpointPort, found = d.endpoint, d.endpoint.Port(), true
		default:
			f.Endpoint = netip.AddrPort{}
			if f.EndpointPort != d.endpoint.Port() {
				f.EndpointPort = 0
			}
		}
	}
	return f, found
}

// Judge reports whether the entry of a flow is to be deleted in a cleanup, and why.
func (g *GoneEndpoints) Judge(c GoneCleanup, f conntrack.Flow) (stale bool, why Reason) {
	since, gone := g.gone[f.Reply.Source]
	switch {
	case f.Protocol != nft.TCP:
		return false, FlowProtocol
	case !f.Translated():
		return false, FlowDirect
	case !gone || since.After(c.until):
		return false, FlowNotGone
	case g.frontends[Frontend{f.Original.Destination, nft.TCP}] == 0:
		return false, FlowForeign
	case f.Closed:
		return false, FlowClosed
	}
	return true, FlowGone
}

// CleanedUp notes that a cleanup is complete, and forgets its endpoints.
func (g *GoneEndpoints) CleanedUp(c GoneCleanup) {
	for len(g.departures) > 0 && !g.departures[0].since.After(c.until) {
		if d := g.departures[0]; g.isGone(d) {
			delete(g.gone, d.endpoint)
		}
		g.departures = g.departures[1:]
	}
}

// Failed notes that a cleanup failed. The next one, which is due at once, includes its flows.
func (g *GoneEndpoints) Failed() { g.began = time.Time{} }
