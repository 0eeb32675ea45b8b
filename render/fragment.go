package render

import (
	"strings"

	"nfproxy/nft"
)

// Fragment returns the part of the tables that belongs to one Service: the same node and Service give the same
// fragment, whatever order their parts come in. Endpoints take the slots in order of their addresses.
func Fragment(n Node, s Service) nft.Fragment {
	var f nft.Fragment
	taken := make(map[nft.Value]bool)
	for _, addr := range s.ClusterIPs {
		sc := schemaOf(Family(addr))
		f = append(f, nft.Member{Set: sc.clusterIPs, Element: nft.Element{Key: nft.Addr(addr)}})
		for _, p := range s.Ports {
			key := nft.Addr(addr) + nft.Proto(p.Protocol) + nft.Port(p.Port)
			if taken[key] { // the first port keeps it
				continue
			}
			taken[key] = true
			f = sc.appendFrontend(f, n, key, label(s.ServiceName, p.Name), p)
		}
	}
	f.Sort()
	return compact(f)
}

// appendFrontend appends what makes one port of a Service reachable: key is the frontend.
func (sc *schema) appendFrontend(f nft.Fragment, n Node, key nft.Value, label string, p Port) nft.Fragment {
	endpoints, _ := Select(p, sc.table.Family)
	action := nft.GotoChain(refuseChain)
	if len(endpoints) > 0 {
		action = nft.GotoChain(loadBalancerName(len(endpoints)))
	}
	f = append(f, nft.Member{Set: sc.services,
		Element: nft.Element{Key: key, Data: action.Value(), Comment: label}})
	for slot, e := range endpoints {
		to := nft.Addr(e.Addr()) + nft.Port(e.Port())
		f = append(f, nft.Member{Set: sc.endpoints,
			Element: nft.Element{Key: key + nft.Slot(uint16(slot)), Data: to}})
		if e.Node == n.Name && n.Name != "" {
			itself := nft.Addr(e.Addr()) + nft.Addr(e.Addr())
			f = append(f, nft.Member{Set: sc.hairpin, Element: nft.Element{Key: itself}})
		}
	}
	return f
}

// compact removes members that come twice: an address can be an endpoint of several ports. What comes first stays.
func compact(f nft.Fragment) nft.Fragment {
	kept := f[:0]
	for i, m := range f {
		if i > 0 && m.Set == f[i-1].Set && m.Key == f[i-1].Key {
			continue
		}
		kept = append(kept, m)
	}
	return kept
}

// maxLabel is how long nft lets a comment be that it reads (NFTNL_UDATA_COMMENT_MAXLEN): a longer one could be written
// over netlink, but the listing would not load again.
const maxLabel = 128

// label is the comment that says which Service port a frontend belongs to: namespace/name:port, without the port where
// that gets too long. namespace/name always fits.
func label(n ServiceName, port string) string {
	if port == "" {
		return n.String()
	}
	if l := n.String() + ":" + port; len(l) <= maxLabel {
		return l
	}
	return n.String()
}

// parseLabel is label's inverse. It says false for a comment that is none of ours.
func parseLabel(l string) (n ServiceName, port string, ok bool) {
	l, port, _ = strings.Cut(l, ":")
	n.Namespace, n.Name, ok = strings.Cut(l, "/")
	return n, port, ok
}
