package render

import (
	"nfproxy/conntrack"
	"nfproxy/nft"
)

// Strays tells TCP connections that began while the tables were not there, from all others: the connection tracking
// remembers that they are not translated, so that their first packet, sent again, would go astray for as long as somebody
// sends it. Forgotten, it finds its Service.
type UntranslatedFlows struct {
	frontends map[nft.Value]bool
}

// Strays returns what tells those to the frontends there are now. At the node's own addresses nobody goes astray: the node
// answers.
func (r *Ruleset) UntranslatedFlows() UntranslatedFlows {
	s := UntranslatedFlows{make(map[nft.Value]bool, len(r.claims.owners))}
	own := make(map[nft.Value]bool)
	for _, addr := range r.node.Addresses {
		own[nft.Addr(addr)] = true
	}
	for key := range r.claims.owners {
		if addr, proto := key[:len(key)-3], key[len(key)-3:len(key)-2]; proto.Proto() == nft.TCP && !own[addr] {
			s.frontends[key] = true
		}
	}
	return s
}

// Has says whether a flow went astray. One that was ever answered has found somebody; in another zone somebody else
// translates.
func (s UntranslatedFlows) Has(f conntrack.Flow) bool {
	to := f.Original.Destination
	return f.Protocol == nft.TCP && f.Zone == 0 && !f.Translated() && !f.Answered() &&
		s.frontends[nft.Addr(to.Addr())+nft.Proto(nft.TCP)+nft.Port(to.Port())]
}
