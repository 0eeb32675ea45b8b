package render

import (
	"net/netip"

	"nfproxy/conntrack"
	"nfproxy/nft"
)

// UntranslatedFlows finds TCP connections to frontends that began without rules. Conntrack keeps such a connection untranslated:
// each retransmission of its first packet misses the Service. Once the entry is deleted, the next retransmission reaches it.
type UntranslatedFlows struct {
	frontends map[nft.Value]bool
	scope     flowScope
}

// UntranslatedFlows returns the flows that may have begun without the rules that the changes restored. It returns false if the
// changes restored nothing that translates TCP connections, so that there are no such flows. The flows to frontends at the node's
// own addresses are not included: there the node itself answers.
func (r *Ruleset) UntranslatedFlows(changes []nft.Change) (UntranslatedFlows, bool) {
	scope := r.untranslatedScope(changes)
	if len(scope) == 0 {
		return UntranslatedFlows{}, false
	}
	u := UntranslatedFlows{make(map[nft.Value]bool, len(r.claims.owners)), scope}
	ofNode := r.ownAddresses()
	for key := range r.claims.owners {
		if f := FrontendOf(key); f.Protocol == nft.TCP && !ofNode[f.Addr()] {
			u.frontends[key] = true
		}
	}
	return u, true
}

// ownAddresses returns the addresses of the node.
func (r *Ruleset) ownAddresses() map[netip.Addr]bool {
	own := make(map[netip.Addr]bool)
	for _, addr := range r.node.Addresses {
		own[addr] = true
	}
	return own
}

// untranslatedScope returns the frontends whose TCP connections were not translated without what the changes add.
func (r *Ruleset) untranslatedScope(changes []nft.Change) flowScope {
	scope, ofNode := make(flowScope), r.ownAddresses()
	added := make(map[*nft.Chain]bool)
	all := func(t nft.TableID) { scope[flowGroup{t.Family, nft.TCP}] = groupScope{all: true} }
	for _, c := range changes {
		if c.Op == nft.Delete {
			continue
		}
		switch o := c.Object.(type) {
		case *nft.Table:
			all(o.TableID)
		case *nft.Chain:
			if added[o] = true; o.Hook == nft.Prerouting || o.Hook == nft.Output {
				all(o.Table)
			}
		case nft.Rules: // what leads to an added chain is a change too
			if !added[o.Chain] && !afterTranslation(o.Chain) {
				all(o.Chain.Table)
			}
		case nft.Elements:
			for _, e := range o.List {
				if f, ok := FrontendIn(o.Set, e.Key); ok && f.Protocol == nft.TCP && !ofNode[f.Addr()] && leadsToTranslation(o.Set) {
					scope.add(f)
				}
			}
		}
	}
	return scope
}

// leadsToTranslation reports whether connections that are not translated yet are looked up in a set with frontends.
func leadsToTranslation(s *nft.Set) bool {
	return s.Name != connectionsSet && s.Name != deliveredSet
}

// afterTranslation reports whether only translated connections pass a chain.
func afterTranslation(c *nft.Chain) bool {
	switch c.Name {
	case UnallocatedChain, ConnectionsChain, DeliveredChain, MasqueradeClusterChain, MasqueradeNodeChain, MasqueradeAllChain:
		return true
	}
	return c.Hook == nft.Postrouting || c.Hook == nft.Input
}

// Filters select the flows to list.
func (s UntranslatedFlows) Filters() []conntrack.Filter { return s.scope.filters() }

// And returns the flows of s and those of earlier ones that have not been deleted yet.
func (s UntranslatedFlows) And(earlier UntranslatedFlows) UntranslatedFlows {
	if s.frontends == nil {
		return earlier
	}
	scope := make(flowScope)
	scope.merge(earlier.scope)
	scope.merge(s.scope)
	return UntranslatedFlows{s.frontends, scope}
}

// Has reports whether a flow is one of them. An answered flow has reached an endpoint; a flow in another conntrack zone may be
// translated by another program.
func (s UntranslatedFlows) Has(f conntrack.Flow) bool {
	to := Frontend{f.Original.Destination, nft.TCP}
	return f.Protocol == nft.TCP && f.Zone == 0 && !f.Translated() && !f.Answered() &&
		s.frontends[to.Key()]
}
