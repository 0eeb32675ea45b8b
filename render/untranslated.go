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
}

// UntranslatedFlows returns an UntranslatedFlows for the current frontends, except those at the node's own addresses, where the
// node itself answers.
func (r *Ruleset) UntranslatedFlows() UntranslatedFlows {
	s := UntranslatedFlows{make(map[nft.Value]bool, len(r.claims.owners))}
	ofNode := make(map[netip.Addr]bool)
	for _, addr := range r.node.Addresses {
		ofNode[addr] = true
	}
	for key := range r.claims.owners {
		if f := FrontendOf(key); f.Protocol == nft.TCP && !ofNode[f.Addr()] {
			s.frontends[key] = true
		}
	}
	return s
}

// Has reports whether a flow is one of them. An answered flow has reached an endpoint; a flow in another conntrack zone may be
// translated by another program.
func (s UntranslatedFlows) Has(f conntrack.Flow) bool {
	to := Frontend{f.Original.Destination, nft.TCP}
	return f.Protocol == nft.TCP && f.Zone == 0 && !f.Translated() && !f.Answered() &&
		s.frontends[to.Key()]
}
