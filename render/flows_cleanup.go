package render

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"nfproxy/nft"

	"nfproxy/conntrack"
)

// fewFrontends is up to how many frontends of a family and protocol are listed one by one. For each list the kernel goes
// through its whole table, and on one processor does nothing else meanwhile (ctnetlink_dump_table in
// net/netfilter/nf_conntrack_netlink.c); a list of the whole group does that once, but makes a message of every flow. To go
// through 260,000 buckets takes as long as to list some 10,000 flows (BenchmarkListFlows).
const maxListedFrontends = 2

// flowGroup is what one list can be about at least.
type flowGroup struct {
	family   nft.Family
	protocol nft.Protocol
}

func flowGroupOf(f Frontend) flowGroup { return flowGroup{Family(f.Addr()), f.Protocol} }

func (g flowGroup) compare(h flowGroup) int {
	return cmp.Or(cmp.Compare(g.family, h.family), cmp.Compare(g.protocol, h.protocol))
}

// flowDuty is which frontends' flows have to be looked at, per group.
type flowScope map[flowGroup]groupScope

// flowChore is some frontends, or all there are.
type groupScope struct {
	frontends []Frontend
	all       bool
}

func (d flowScope) add(f Frontend) {
	g := flowGroupOf(f)
	switch c := d[g]; {
	case c.all || slices.Contains(c.frontends, f):
	case len(c.frontends) == maxListedFrontends:
		d[g] = groupScope{all: true}
	default:
		d[g] = groupScope{frontends: append(slices.Clip(c.frontends), f)}
	}
}

func (d flowScope) merge(other flowScope) {
	for g, c := range other {
		if c.all {
			d[g] = c
		}
		for _, f := range c.frontends {
			d.add(f)
		}
	}
}

// FlowSweep is what has to be listed and judged.
type FlowCleanup struct {
	// Filters together say which flows. One can be of several filters.
	Filters []conntrack.Filter

	scope flowScope
	epoch uint64
}

// Programmed says that the kernel has what was taken, by these changes, perhaps by none: an endpoint that serves while
// it terminates can go without one. The frontends that changed are due then, and at the first time all.
func (x *FlowIndex) Programmed(changes []nft.Change) {
	if !x.programmed {
		x.programmed = true
		for _, family := range []nft.Family{nft.IPv4, nft.IPv6} {
			for _, protocol := range []nft.Protocol{nft.UDP, nft.SCTP} {
				x.pending[flowGroup{family, protocol}] = groupScope{all: true}
			}
		}
	}
	for f := range deletedFrontends(changes) {
		if _, ok := x.frontends[f]; !ok {
			x.markGone(f)
		}
	}
	for f := range FlowFrontends(changes) {
		x.pending.add(f)
	}
	x.pending.merge(x.updated)
	clear(x.updated)
}

// Next returns what has to be swept now; it says false for nothing. Either Swept or Failed follows.
func (x *FlowIndex) Next() (FlowCleanup, bool) {
	s := FlowCleanup{scope: x.pending, epoch: x.epoch}
	for _, g := range slices.SortedFunc(maps.Keys(x.pending), flowGroup.compare) {
		if x.sizes[g] == 0 {
			continue
		}
		filter := conntrack.Filter{Family: g.family, Protocol: g.protocol}
		if x.pending[g].all {
			s.Filters = append(s.Filters, filter)
		}
		for _, f := range x.pending[g].frontends {
			filter.Destination = f.AddrPort
			s.Filters = append(s.Filters, filter)
		}
	}
	x.pending = make(flowScope)
	x.epoch++
	return s, len(s.Filters) > 0
}

// Swept says that a sweep was complete: what was gone when it began is forgotten.
func (x *FlowIndex) CleanedUp(s FlowCleanup) {
	for f, since := range x.gone {
		c := s.scope[flowGroupOf(f)]
		if since <= s.epoch && (c.all || slices.Contains(c.frontends, f)) {
			x.unmarkGone(f)
		}
	}
}

// Failed says that a sweep was not: it is due again.
func (x *FlowIndex) Failed(s FlowCleanup) { x.pending.merge(s.scope) }

// FlowFrontends are the UDP and SCTP frontends that changes are about: what they have in any set. A sweep is needed if
// there are some. One can come several times.
func FlowFrontends(changes []nft.Change) iter.Seq[Frontend] {
	return func(yield func(Frontend) bool) {
		for _, c := range changes {
			for s, elements := range changedElements(c) {
				for _, e := range elements {
					if f, ok := flowFrontendOf(s, e.Key); ok && !yield(f) {
						return
					}
				}
			}
		}
	}
}

// deletedFrontends are the UDP and SCTP frontends that changes take out of the services maps.
func deletedFrontends(changes []nft.Change) iter.Seq[Frontend] {
	return func(yield func(Frontend) bool) {
		for _, c := range changes {
			if c.Op != nft.Delete {
				continue
			}
			for s, elements := range changedElements(c) {
				for _, e := range elements {
					if f, ok := flowFrontendOf(s, e.Key); ok && s.Name == schemaIPv4.Services.Name && !yield(f) {
						return
					}
				}
			}
		}
	}
}

// changedElements goes through the elements a change is about, by set: also those that go with their set or table.
func changedElements(c nft.Change) iter.Seq2[*nft.Set, []nft.Element] {
	return func(yield func(*nft.Set, []nft.Element) bool) {
		switch o := c.Object.(type) {
		case nft.Elements:
			yield(o.Set, o.List)
		case *nft.Set:
			if c.Op == nft.Delete {
				yield(o, o.Elements)
			}
		case *nft.Table:
			if c.Op != nft.Delete {
				return
			}
			for _, s := range o.Sets {
				if !yield(s, s.Elements) {
					return
				}
			}
		}
	}
}

// flowFrontendOf is the frontend that a key begins with, if it is one of UDP or SCTP. The set can be another schema's.
func flowFrontendOf(s *nft.Set, key nft.Value) (Frontend, bool) {
	n := s.Table.Family.AddrType().Width()
	if len(s.Key) < 3 || s.Key[0] != s.Table.Family.AddrType() || s.Key[1] != nft.InetProto || s.Key[2] != nft.InetService ||
		len(key) < n+3 || !hasFlows(nft.Protocol(key[n])) {
		return Frontend{}, false
	}
	at := netip.AddrPortFrom(key[:n].Addr(), key[n+1:n+3].Uint16())
	return Frontend{at, nft.Protocol(key[n])}, true
}
