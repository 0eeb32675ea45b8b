package report

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"nfproxy/nft"

	"nfproxy/render"
)

// Why connections end as they do, beside the reasons of RouteOf.
const (
	NoTable          render.Reason = "there is no table of nfproxy for this family"
	NobodyServes     render.Reason = "the Service has no endpoint that may serve"
	InternalNobody   render.Reason = "internalTrafficPolicy is Local, and no usable endpoint is on this node"
	ExternalNobody   render.Reason = "externalTrafficPolicy is Local, no usable endpoint is on this node, and the source is neither it nor a pod of it"
	ExternalInside   render.Reason = "externalTrafficPolicy is Local, which does not bind this node and its pods"
	InRanges         render.Reason = "the source is in the Service's loadBalancerSourceRanges"
	NoSlots          render.Reason = "the frontend has no endpoints where it should: the tables are not complete"
	ClientRemembered render.Reason = "the client is remembered and goes where it went before"
)

// Why sources are replaced or kept, beside the reasons of MasqueradeOf.
const (
	ReachesItself  render.Reason = "the endpoint reaches itself: the answer must come back by way of this node"
	NoPod          render.Reason = "it came to a cluster IP from where no pods are: it could not be answered otherwise"
	PodKeeps       render.Reason = "it came to a cluster IP from where pods are"
	PodsUnknown    render.Reason = "it came to a cluster IP, and without a cluster CIDR nobody can tell which sources are pods'"
	AllMasqueraded render.Reason = "it came to a cluster IP and masquerade-all is set"
	NodeItself     render.Reason = "it is this node's own: an endpoint elsewhere must answer by way of it"
)

// ExplainedAffinity is what session affinity does for the client now.
type Affinity struct {
	Seconds int `json:"seconds"`
	// State is remembered, new or full: the last has no room for another client.
	State string `json:"state"`
	// Endpoint is where a remembered client goes, LeftSeconds for how long if it does not connect again.
	Endpoint    string `json:"endpoint,omitempty"`
	LeftSeconds *int   `json:"leftSeconds,omitempty"`
	// Clients is how many are remembered, Room for how many there is, 0 for any number.
	Clients int `json:"clients"`
	Room    int `json:"room,omitempty"`
}

// affinity tells by the rule that remembers clients, nil if the way has none.
func (x *explainer) affinity(path nft.Path) *Affinity {
	for _, s := range path.Steps {
		remember, ok := s.Matched.Do.(nft.Update)
		clients := x.table.Set(remember.Map)
		if !ok || clients == nil {
			continue
		}
		a := &Affinity{Seconds: int(remember.Timeout.Seconds()), State: "new", Clients: len(clients.Elements), Room: int(clients.Size)}
		client, known := clients.Lookup(nft.Addr(x.packet.Source.Addr()))
		switch to := client.Data.Fields(clients.Data); {
		case known && len(to) == 2:
			a.State, a.Endpoint = "remembered", netip.AddrPortFrom(to[0].Addr(), to[1].Uint16()).String()
			if client.Expires > 0 {
				seconds := int(client.Expires.Round(time.Second).Seconds())
				a.LeftSeconds = &seconds
			}
		case a.Room > 0 && a.Clients >= a.Room:
			a.State = "full"
		}
		return a
	}
	return nil
}

// origin says what the source is to the node, by the match that tells pods.
func (x *explainer) origin() (Origin, string) {
	if x.packet.Hook == nft.Output {
		return ThisNode, "an address of this node"
	}
	switch m := x.tellsPods().(type) {
	case nft.In:
		if !nft.Holds(x.table, x.packet, m) {
			return Outsider, "in no range of pods: " + cmp.Or(x.prefixes(m.Set, ""), "none is known")
		}
		return Pod, "in a range of pods: " + x.prefixes(m.Set, "")
	case nft.InputInterface:
		name := m.Name
		if m.Prefix {
			name += "*"
		}
		if !nft.Holds(x.table, x.packet, m) {
			return Outsider, "it does not come in by an interface of pods: " + name
		}
		return Pod, "it comes in by an interface of pods: " + name
	}
	return Outsider, "the tables do not tell who is a pod"
}

// tellsPods is the match that holds for pods, nil if there is none.
func (x *explainer) tellsPods() nft.Match {
	if c := x.table.Chain(render.ExternalLocalChain); c != nil && len(c.Rules) > 0 && len(c.Rules[0].Match) == 1 {
		return c.Rules[0].Match[0]
	}
	return nil
}

// prefixes lists the ranges of an interval set whose keys begin so and end with an address.
func (x *explainer) prefixes(set string, key nft.Value) string {
	s := x.table.Set(set)
	if s == nil || !s.Interval {
		return ""
	}
	var ranges []string
	for _, e := range s.Elements {
		first, last := e.Key[:len(e.Key)/2], e.Key[len(e.Key)/2:]
		if strings.HasPrefix(string(first), string(key)) && strings.HasPrefix(string(last), string(key)) {
			ranges = append(ranges, rangeText(first[len(key):], last[len(key):]))
		}
	}
	return strings.Join(ranges, ", ")
}

// rangeText is a range of addresses as a prefix, if it is one.
func rangeText(first, last nft.Value) string {
	from, to := first.Addr(), last.Addr()
	if !from.IsValid() || !to.IsValid() {
		return "unreadable"
	}
	for bits := range from.BitLen() + 1 {
		if p := netip.PrefixFrom(from, bits); nft.Interval(p) == first+last {
			return p.String()
		}
	}
	return from.String() + "-" + to.String()
}

// why says why the way ended as it did.
func (x *explainer) why(path nft.Path) []render.Reason {
	switch x.Outcome {
	case Sent:
		return x.whySent(path)
	case Untouched:
		return []render.Reason{"no Service has this address and port" + x.neighbours()}
	case Refused:
		if x.Service != nil {
			return []render.Reason{NobodyServes}
		}
		return []render.Reason{"no Service has this port; the address is a cluster IP" + x.neighbours()}
	}
	last := path.Steps[len(path.Steps)-1] // a packet is dropped by a rule
	_, balancer := render.BalancingChainOf(x.table.Family, nft.GotoChain(last.Chain))
	switch {
	case balancer:
		return []render.Reason{NoSlots}
	case last.Chain == render.SourceRangesChain:
		return []render.Reason{render.Reason("the source is in none of the Service's loadBalancerSourceRanges: " +
			cmp.Or(x.prefixes(x.schema.SourceRanges.Name, x.key), "there is none"))}
	case last.Chain == render.ExternalLocalChain:
		return []render.Reason{ExternalNobody}
	case last.Chain == render.DispatchChain && x.Service != nil:
		return []render.Reason{InternalNobody}
	case last.Chain == render.DispatchChain:
		return []render.Reason{render.Reason("no Service has this address, which is one of the Services' range " + x.prefixes(x.schema.ServiceCIDRs.Name, ""))}
	}
	return []render.Reason{render.Reason(fmt.Sprintf("a rule in chain %q says so", last.Chain))}
}

// whySent tells by the chains on the way.
func (x *explainer) whySent(path nft.Path) []render.Reason {
	var why []render.Reason
	local := false
	for _, s := range path.Steps {
		if s.Then.Kind == nft.Goto && (strings.HasPrefix(s.Then.Chain, "local-lb-") || strings.HasPrefix(s.Then.Chain, "affinity-local/")) {
			local = true
		}
		lookup, ok := s.Matched.Do.(nft.VerdictMap)
		switch {
		case !ok:
		case lookup.Map == x.schema.Admitted.Name:
			why = append(why, InRanges)
		case lookup.Map == x.schema.FromNode.Name:
			why = append(why, ExternalInside)
		case lookup.Map == x.schema.FromOutside.Name:
			why = append(why, render.ExternalLocally)
		}
	}
	switch {
	case local && !slices.Contains(why, render.ExternalLocally):
		why = append(why, render.InternalLocally)
	case !local && !slices.Contains(why, ExternalInside):
		why = append(why, render.AnyEndpoint)
	}
	if x.Affinity != nil && x.Affinity.State == "remembered" {
		why = append(why, ClientRemembered)
	}
	return why
}

// maxNeighbours is how many other frontends of an address are named.
const maxNeighbours = 3

// neighbours names what the address has instead of the port asked for, the same port of other protocols first.
func (x *explainer) neighbours() render.Reason {
	var same, other []string
	if services := x.table.Set(x.schema.Services.Name); services != nil {
		for _, e := range services.Elements {
			f := e.Key.Fields(x.schema.Services.Key)
			if f == nil || f[0].Addr() != x.To.Address {
				continue
			}
			text := fmt.Sprintf("%d/%s of %s", f[2].Uint16(), f[1].Proto(), e.Comment)
			if f[2].Uint16() == x.To.Port {
				same = append(same, text)
			} else {
				other = append(other, text)
			}
		}
	}
	all := append(same, other...)
	switch n := len(all) - maxNeighbours; {
	case len(all) == 0:
		return ""
	case n > 0:
		all = append(all[:maxNeighbours], fmt.Sprintf("%d more", n))
	}
	return render.Reason("; there is " + strings.Join(all, ", "))
}

// whyMasqueraded tells by the class that a connection came to, and by the rule there that held.
func (x *explainer) whyMasqueraded(path nft.Path) render.Reason {
	class := ""
	for _, s := range path.Steps {
		if to := s.Then.Chain; to == render.MasqueradeClusterChain || to == render.MasqueradeNodeChain || to == render.MasqueradeAllChain {
			class = to
		}
	}
	last := path.Steps[len(path.Steps)-1].Matched // a connection to an endpoint has passed some
	if in, ok := firstMatch(last).(nft.In); ok && path.Masqueraded && in.Set == x.schema.Hairpin.Name {
		return ReachesItself
	}
	switch {
	case class == render.MasqueradeAllChain:
		return render.ToOtherNodes
	case class == render.MasqueradeNodeChain && path.Masqueraded:
		return NodeItself
	case class == render.MasqueradeNodeChain:
		return render.KeepTheirSource
	case class != render.MasqueradeClusterChain:
		return "the tables do not say"
	case path.Masqueraded && firstMatch(last) == nil:
		return AllMasqueraded
	case path.Masqueraded:
		return NoPod
	}
	if c := x.table.Chain(render.MasqueradeClusterChain); c != nil && len(c.Rules) > 1 {
		return PodKeeps
	}
	return PodsUnknown
}

// firstMatch is the first condition of a rule, nil if it has none.
func firstMatch(r nft.Rule) nft.Match {
	if len(r.Match) == 0 {
		return nil
	}
	return r.Match[0]
}
