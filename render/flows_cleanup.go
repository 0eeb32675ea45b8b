package render

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// maxListedFrontends is the largest number of frontends of a group whose flows are listed one by one. For each list the kernel
// walks its whole table and occupies a processor meanwhile (ctnetlink_dump_table in net/netfilter/nf_conntrack_netlink.c). A
// list of the whole group walks it once, but makes a message of every flow. Walking 260,000 buckets takes as long as listing
// some 10,000 flows (BenchmarkListFlows).
const maxListedFrontends = 2

// flowGroup is a family and protocol: the flows that one list covers without an address.
type flowGroup struct {
	family   nft.Family
	protocol nft.Protocol
}

func flowGroupOf(f Frontend) flowGroup { return flowGroup{Family(f.Addr()), f.Protocol} }

func (g flowGroup) compare(h flowGroup) int {
	return cmp.Or(cmp.Compare(g.family, h.family), cmp.Compare(g.protocol, h.protocol))
}

// flowScope holds the frontends whose flows have to be examined, by group.
type flowScope map[flowGroup]groupScope

// groupScope is a few frontends of a group, or all of them.
type groupScope struct {
	frontends []Frontend
	all       bool
}

func (s flowScope) add(f Frontend) {
	g := flowGroupOf(f)
	switch c := s[g]; {
	case c.all || slices.Contains(c.frontends, f):
	case len(c.frontends) == maxListedFrontends:
		s[g] = groupScope{all: true}
	default:
		s[g] = groupScope{frontends: append(slices.Clip(c.frontends), f)}
	}
}

func (s flowScope) merge(other flowScope) {
	for g, c := range other {
		if c.all {
			s[g] = c
		}
		for _, f := range c.frontends {
			s.add(f)
		}
	}
}

// filters returns the filters that select the flows of the scope, in order.
func (s flowScope) filters() (filters []conntrack.Filter) {
	for _, g := range slices.SortedFunc(maps.Keys(s), flowGroup.compare) {
		filter := conntrack.Filter{Family: g.family, Protocol: g.protocol}
		if s[g].all {
			filters = append(filters, filter)
		}
		for _, f := range s[g].frontends {
			filter.Destination = f.AddrPort
			filters = append(filters, filter)
		}
	}
	return filters
}

// FlowCleanup is one cleanup: the flows to list and judge.
type FlowCleanup struct {
	// Filters select the flows. Several filters can select the same flow.
	Filters []conntrack.Filter

	scope flowScope
	epoch uint64
}

// Programmed notes that the kernel has what Take applied, and by which changes. There may be none: removing an endpoint that
// served while it terminated may change no rule. The next cleanup examines the frontends that changed, the first cleanup all.
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

// Next begins a cleanup. It returns false if there is nothing to examine. The caller reports the result by CleanedUp or Failed.
func (x *FlowIndex) Next() (FlowCleanup, bool) {
	cleanup := FlowCleanup{scope: x.pending, epoch: x.epoch}
	inhabited := maps.Clone(x.pending)
	maps.DeleteFunc(inhabited, func(g flowGroup, _ groupScope) bool { return x.sizes[g] == 0 })
	cleanup.Filters = inhabited.filters()
	x.pending = make(flowScope)
	x.epoch++
	return cleanup, len(cleanup.Filters) > 0
}

// CleanedUp notes that a cleanup is complete. The index forgets the frontends that were gone when it began.
func (x *FlowIndex) CleanedUp(s FlowCleanup) {
	for f, since := range x.gone {
		c := s.scope[flowGroupOf(f)]
		if since <= s.epoch && (c.all || slices.Contains(c.frontends, f)) {
			x.unmarkGone(f)
		}
	}
}

// Failed notes that a cleanup failed. The next one includes its flows.
func (x *FlowIndex) Failed(s FlowCleanup) { x.pending.merge(s.scope) }

// FlowFrontends returns the UDP and SCTP frontends whose elements in any set change, some of them more than once. If there are
// any, a cleanup is needed.
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

// deletedFrontends returns the UDP and SCTP frontends that changes delete from the services maps.
func deletedFrontends(changes []nft.Change) iter.Seq[Frontend] {
	return func(yield func(Frontend) bool) {
		for _, c := range changes {
			if c.Op != nft.Delete {
				continue
			}
			for s, elements := range changedElements(c) {
				for _, e := range elements {
					if f, ok := flowFrontendOf(s, e.Key); ok && isServices(s) && !yield(f) {
						return
					}
				}
			}
		}
	}
}

// changedElements returns the elements of a change by set, including those that are deleted with their set or table.
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

// flowFrontendOf returns the frontend that a key begins with, false if it is not a UDP or SCTP frontend.
func flowFrontendOf(s *nft.Set, key nft.Value) (Frontend, bool) {
	f, ok := FrontendIn(s, key)
	return f, ok && hasFlows(f.Protocol)
}
