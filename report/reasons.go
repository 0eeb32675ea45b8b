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

// Why connections end as they do, besides the reasons of render.RouteOf.
const (
	NoTable          render.Reason = "nfproxy has no table of this address family in this network namespace"
	NoUsableEndpoint render.Reason = "the Service has no usable endpoint"
	InternalNoLocal  render.Reason = "internalTrafficPolicy is Local and this node has no usable endpoint"
	ExternalNoLocal  render.Reason = "externalTrafficPolicy is Local, this node has no usable endpoint, and the source is neither this node nor a Pod"
	ExternalInside   render.Reason = "externalTrafficPolicy Local does not apply to connections of this node and of Pods"
	InSourceRanges   render.Reason = "the source is in the Service's loadBalancerSourceRanges"
	NoSlots          render.Reason = "the frontend has no endpoints in the tables, which are incomplete"
	PingAnswered     render.Reason = "a Service with a usable endpoint has the address, and --answer-ping is set"
	ClientRemembered render.Reason = "session affinity sends the client to its previous endpoint"
	ClientHashed     render.Reason = "the endpoint follows from the client's address (lb-algorithm maglev)"
	ExceedsLimit     render.Reason = "the connection exceeds a limit of the Service on new connections"
	ConnectionHashed render.Reason = "the endpoint follows from the client's address and port (lb-algorithm maglev)"
)

// Why sources are masqueraded or not, besides the reasons of render.MasqueradeOf.
const (
	IsHairpin      render.Reason = "hairpin: the endpoint connects to itself, and the reply must pass this node"
	SourceNotPod   render.Reason = "source is not a Pod, destination is a cluster IP"
	SourceIsPod    render.Reason = "source is a Pod, destination is a cluster IP"
	PodsUnknown    render.Reason = "destination is a cluster IP, and without Pod CIDRs any source may be a Pod"
	AllMasqueraded render.Reason = "destination is a cluster IP, and masquerade-all is set"
	SourceIsNode   render.Reason = "source is this node; an endpoint on another node must reply through it"
	EndpointIsNode render.Reason = "the endpoint is this node itself, so its replies pass it anyway"
)

// Affinity is what session affinity does for the client now.
type Affinity struct {
	// Seconds is how long a client is remembered after its last connection.
	Seconds int `json:"seconds"`
	// State is "remembered", "new" or "full"; full means that the map has no room for this client.
	State string `json:"state"`
	// Endpoint is where a remembered client is sent, LeftSeconds for how long if it does not connect again.
	Endpoint    string `json:"endpoint,omitempty"`
	LeftSeconds *int   `json:"leftSeconds,omitempty"`
	// Clients is the number of remembered clients, Room the largest number, 0 for no limit.
	Clients int `json:"clients"`
	Room    int `json:"room,omitempty"`
}

// affinity reads the map in which the path looks the client up, nil if there is no such map. That map has the name of the chain
// that looks it up.
func (x *explainer) affinity(path nft.Path) *Affinity {
	lookup := ""
	for _, s := range path.Steps {
		if m := x.table.Set(s.Then.Chain); m != nil && m.Dynamic {
			lookup = m.Name
		}
	}
	for _, s := range path.Steps {
		remember, ok := s.Matched.Do.(nft.Update)
		clients := x.table.Set(lookup)
		if !ok || clients == nil {
			continue
		}
		client, clients, known := x.remembered(clients)
		a := &Affinity{Seconds: int(remember.Timeout.Seconds()), State: "new", Clients: len(clients.Elements), Room: int(clients.Size)}
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

// remembered returns the element of the client and its map: the first one with such an element of those in which the chain with the
// name of a map looks clients up. Without any it returns that map.
func (x *explainer) remembered(clients *nft.Set) (client nft.Element, in *nft.Set, known bool) {
	if c := x.table.Chain(clients.Name); c != nil {
		for _, r := range c.Rules {
			lookup, ok := r.Do.(nft.DNAT)
			if m := x.table.Set(lookup.Map); ok && m != nil {
				if client, known = m.Lookup(nft.Addr(x.packet.Source.Addr())); known {
					return client, m, true
				}
			}
		}
	}
	return client, clients, false
}

// origin classifies the source by the match that holds for Pods.
func (x *explainer) origin() (Origin, string) {
	if x.packet.Hook == nft.Output {
		return ThisNode, "an address of this node"
	}
	switch m := x.podMatch().(type) {
	case nft.In:
		ranges := x.ranges(m.Set, "")
		switch {
		case nft.Holds(x.table, x.packet, m):
			return Pod, "in the Pod CIDRs " + ranges
		case ranges == "":
			return Outsider, "no Pod CIDR is known"
		}
		return Outsider, "outside the Pod CIDRs " + ranges
	case nft.InputInterface:
		name := m.Name
		if m.Prefix {
			name += "*"
		}
		if !nft.Holds(x.table, x.packet, m) {
			return Outsider, "its interface is not a Pod interface (" + name + ")"
		}
		return Pod, "its interface is a Pod interface (" + name + ")"
	}
	return Outsider, "the tables do not identify Pods"
}

// podMatch is the match that holds for connections of Pods, nil if the tables have none.
func (x *explainer) podMatch() nft.Match {
	if c := x.table.Chain(render.ExternalLocalChain); c != nil && len(c.Rules) > 0 && len(c.Rules[0].Match) == 1 {
		return c.Rules[0].Match[0]
	}
	return nil
}

// ranges lists the address ranges of an interval set whose keys are the given key followed by an address.
func (x *explainer) ranges(set string, key nft.Value) string {
	s := x.table.Set(set)
	if s == nil || !s.Interval {
		return ""
	}
	var all []string
	for _, e := range s.Elements {
		first, last := e.Key[:len(e.Key)/2], e.Key[len(e.Key)/2:]
		if strings.HasPrefix(string(first), string(key)) && strings.HasPrefix(string(last), string(key)) {
			all = append(all, rangeText(first[len(key):], last[len(key):]))
		}
	}
	return strings.Join(all, ", ")
}

// rangeText returns a range of addresses as a prefix, or as FIRST-LAST if it is none.
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

// why returns the reasons for the outcome at the end of a path.
func (x *explainer) why(path nft.Path) []render.Reason {
	switch x.Outcome {
	case Sent:
		return x.whySent(path)
	case Untouched:
		if x.To.Address.IsLoopback() {
			return []render.Reason{x.whyLoopback()}
		}
		return []render.Reason{"no Service has this address and port" + x.neighbours()}
	case Answered:
		return []render.Reason{PingAnswered}
	case Refused:
		switch {
		case x.Service != nil:
			return []render.Reason{NoUsableEndpoint}
		case slices.ContainsFunc(path.Steps, isUnserved):
			return []render.Reason{x.whyUnserved()}
		}
		return []render.Reason{x.notServed("a cluster IP")}
	}
	return []render.Reason{x.whyDropped(path.Steps[len(path.Steps)-1])}
}

// isUnserved reports whether a step is in a chain that decides about unserved ports.
func isUnserved(s nft.Step) bool {
	return s.Chain == render.UnservedReceivedChain || s.Chain == render.UnservedSentChain
}

// whyUnserved returns the reason why a packet to an unserved port is refused or dropped.
func (x *explainer) whyUnserved() render.Reason {
	return "--unserved-ports is set: " + x.notServed("an external IP or a load balancer address")
}

// notServed returns the reason for a refusal at an address of a Service.
func (x *explainer) notServed(kind render.Reason) render.Reason {
	if !x.packet.Protocol.HasPorts() {
		return "the address is " + kind + ", and no rule answers this ping"
	}
	return "the address is " + kind + ", but no Service has this port" + x.neighbours()
}

// whyDropped returns the reason why the rule of the last step drops packets.
func (x *explainer) whyDropped(last nft.Step) render.Reason {
	switch {
	case render.IsBalancing(last.Chain):
		return NoSlots
	case last.Chain == render.SourceRangesChain:
		return render.Reason("the source is outside the Service's loadBalancerSourceRanges " +
			cmp.Or(x.ranges(x.schema.SourceRanges.Name, x.key), "(none)"))
	case last.Chain == render.ExternalLocalChain:
		return ExternalNoLocal
	case last.Chain == render.DispatchChain:
		return InternalNoLocal
	case isUnserved(last):
		return x.whyUnserved()
	case last.Chain == render.UnallocatedChain:
		return render.Reason("the address is in the service CIDRs " + x.ranges(x.schema.ServiceCIDRs.Name, "") + ", but no Service has it")
	}
	return render.Reason(fmt.Sprintf("a rule in chain %q drops the packet", last.Chain))
}

// whySent returns the reasons for the choice of endpoints, by the verdicts on the path.
func (x *explainer) whySent(path nft.Path) []render.Reason {
	var why []render.Reason
	var hashed []render.Reason
	local := false
	for _, s := range path.Steps {
		b, _ := render.BalancingChainOf(x.table.Family, s.Then)
		local = local || b.Local || render.IsLocalAffinity(s.Then)
		switch b.Hashing {
		case render.HashClients:
			hashed = append(hashed, ClientHashed)
		case render.HashConnections:
			hashed = append(hashed, ConnectionHashed)
		}
		lookup, ok := s.Matched.Do.(nft.VerdictMap)
		switch {
		case !ok:
		case lookup.Map == x.schema.Admitted.Name:
			why = append(why, InSourceRanges)
		case lookup.Map == x.schema.WithinLimit.Name:
			why = append(why, x.whyWithinLimits())
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
		return append(why, ClientRemembered)
	}
	why = append(why, hashed...)
	return why
}

// whyWithinLimits returns the reason that names the limits of the frontend, which the packet does not exceed.
func (x *explainer) whyWithinLimits() render.Reason {
	v := find(x.table, x.schema.Services, x.key).Data.Verdict()
	if v == nft.GotoChain(render.SourceRangesChain) {
		v = find(x.table, x.schema.Admitted, x.key).Data.Verdict()
	}
	limits, _ := describeLimits(x.table, x.key, v)
	if limits == nil {
		return "the tables do not tell the limits"
	}
	return render.Reason(fmt.Sprintf("within the limits on new connections (%s; above: %s)", limits, limits.Over))
}

// maxNeighbours is the largest number of other frontends of an address that are named.
const maxNeighbours = 3

// neighbours names other frontends of the destination address, those with the same port first.
func (x *explainer) neighbours() render.Reason {
	var same, other []string
	if services := x.table.Set(x.schema.Services.Name); services != nil {
		for _, e := range services.Elements {
			f := e.Key.Fields(x.schema.Services.Key)
			if f == nil || f[0].Addr() != x.To.Address {
				continue
			}
			text := fmt.Sprintf("%d/%s (%s)", f[2].Uint16(), f[1].Proto(), e.Comment)
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
	return render.Reason("; the address has " + strings.Join(all, ", "))
}

// whyMasqueraded returns the reason why the source is masqueraded or not, by the masquerade chain on the path and the rule
// there that matched.
func (x *explainer) whyMasqueraded(path nft.Path) render.Reason {
	chain := ""
	for _, s := range path.Steps {
		if to := s.Then.Chain; to == render.MasqueradeClusterChain || to == render.MasqueradeNodeChain || to == render.MasqueradeAllChain {
			chain = to
		}
	}
	last := path.Steps[len(path.Steps)-1].Matched // a path to an endpoint has steps
	if in, ok := firstMatch(last).(nft.In); ok && path.Masqueraded && in.Set == x.schema.Hairpin.Name {
		return IsHairpin
	}
	switch {
	case path.Delivered:
		return EndpointIsNode
	case chain == render.MasqueradeAllChain:
		return render.ToOtherNodes
	case chain == render.MasqueradeNodeChain && path.Masqueraded:
		return SourceIsNode
	case chain == render.MasqueradeNodeChain:
		return render.KeepTheirSource
	case chain != render.MasqueradeClusterChain:
		return "the tables do not tell"
	case path.Masqueraded && firstMatch(last) == nil:
		return AllMasqueraded
	case path.Masqueraded:
		return SourceNotPod
	}
	if c := x.table.Chain(render.MasqueradeClusterChain); c != nil && len(c.Rules) > 1 {
		return SourceIsPod
	}
	return PodsUnknown
}

// firstMatch is the first match of a rule, nil if it has none.
func firstMatch(r nft.Rule) nft.Match {
	if len(r.Match) == 0 {
		return nil
	}
	return r.Match[0]
}
