package render

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"nfproxy/nft"
)

// Limits are the limits of a Service on new connections. They apply to each of its frontends on each node by itself.
type Limits struct {
	// Rate is what all clients together may open at a frontend, and ClientRate what each client address may. The zero Limit is none.
	Rate, ClientRate nft.Limit
	// Drop: what exceeds a limit is dropped, and otherwise refused.
	Drop bool
}

// MaxConnectionRate is the largest number of connections in a period of a limit, and the largest burst.
const MaxConnectionRate = 1_000_000

// leastBurst is the least default of a burst.
const leastBurst = 5

// DefaultBurst returns the burst of a limit that names none: what the rate admits in a second, and at least leastBurst.
func DefaultBurst(packets uint64, per time.Duration) uint32 {
	return max(leastBurst, uint32(packets*uint64(time.Second)/uint64(per)))
}

// any reports whether there is a limit.
func (l Limits) any() bool { return l.Rate != nft.Limit{} || l.ClientRate != nft.Limit{} }

// verdict returns what happens to connections that exceed a limit.
func (l Limits) verdict() nft.Verdict {
	if l.Drop {
		return nft.Verdict{Kind: nft.Drop}
	}
	return nft.GotoChain(RefuseChain)
}

// limit returns the verdict that applies the limits of the Service to connections for which action is the verdict within them. Without
// limits, and if action balances nothing, it returns the action.
func (b *serviceBuilder) limit(sc *Schema, key nft.Value, action nft.Verdict) nft.Verdict {
	l := b.service.Limits
	if !l.any() || action == nft.GotoChain(RefuseChain) || action.Kind == nft.Drop {
		return action
	}
	b.add(sc.WithinLimit, nft.Element{Key: key, Data: action.Value()})
	b.add(sc.OverLimit, nft.Element{Key: key, Data: l.verdict().Value()})
	if l.Rate != (nft.Limit{}) {
		b.add(sc.Rates, nft.Element{Key: key, Data: l.Rate.Value()})
	}
	return nft.GotoChain(clientLimit{sc.Table.Family, l.ClientRate}.chainName())
}

// limitElements returns the number of elements that limit adds for a frontend.
func (l Limits) limitElements() int {
	switch {
	case !l.any():
		return 0
	case l.Rate != nft.Limit{}:
		return 3
	}
	return 2
}

// clientLimitCost is what the chain and the set of a clientLimit cost in each family, in elements. A Service can be the only one with its
// limit, so that each is charged for them.
const clientLimitCost = 20

// cost returns what the limits of a Service cost, apart from the elements of its frontends.
func (l Limits) cost() int {
	if l.ClientRate == (nft.Limit{}) {
		return 0
	}
	return 2 * clientLimitCost
}

// clientLimit identifies a limit for each client. All frontends with the same one share a chain and a dynamic set: the limit of elements
// that packets add is part of the set's declaration. The zero Limit stands for the chain after it, and for the sets that all frontends
// with limits share.
type clientLimit struct {
	family nft.Family
	nft.Limit
}

// The names of the objects of a clientLimit begin with these.
const (
	clientLimitChain = "client-limit-"
	clientsSet       = "clients-"
)

// limitedClients is the number of elements that a dynamic set of clients holds at most: one for each frontend and client. Clients that it
// has no room for are not limited.
const limitedClients = 1 << 16

// String returns the limit as names of objects contain it, such as 10-second-20.
func (l clientLimit) String() string { return fmt.Sprintf("%d-%s-%d", l.Packets, l.Unit(), l.Burst) }

// chainName returns the name of the chain that verdicts go to.
func (l clientLimit) chainName() string {
	if l.Limit == (nft.Limit{}) {
		return LimitedChain
	}
	return clientLimitChain + l.String()
}

// IsLimiting reports whether a chain of this name applies limits.
func IsLimiting(chain string) bool {
	return chain == LimitedChain || strings.HasPrefix(chain, clientLimitChain)
}

// isOfLimits reports whether a set of this name is one that exists once a Service has limits.
func isOfLimits(set string) bool {
	same := func(s *nft.Set) bool { return s.Name == set }
	return slices.ContainsFunc(SchemaOf(nft.IPv4).ofLimits(), same) || strings.HasPrefix(set, clientsSet)
}

// LeadsOverLimit reports whether rules look up connections that exceed a limit in the map of this name.
func LeadsOverLimit(name string) bool { return name == SchemaOf(nft.IPv4).OverLimit.Name }

// ClientLimitOf returns the limit for each client that a verdict leads to, the zero Limit if the verdict leads to a limit for all clients
// only. It returns false for any other verdict.
func ClientLimitOf(v nft.Verdict) (nft.Limit, bool) {
	l, ok := clientLimitOf(nft.IPv4, v)
	return l.Limit, ok
}

// clientLimitOf returns the clientLimit whose chain a verdict goes to. It returns false for any other verdict, and for a chain of another
// program whose name is of a limit that cannot exist.
func clientLimitOf(f nft.Family, v nft.Verdict) (clientLimit, bool) {
	l := clientLimit{family: f}
	if v == nft.GotoChain(LimitedChain) {
		return l, true
	}
	text, ok := strings.CutPrefix(v.Chain, clientLimitChain)
	if !ok {
		return l, false
	}
	var unit string
	_, err := fmt.Sscanf(strings.ReplaceAll(text, "-", " "), "%d %s %d", &l.Packets, &unit, &l.Burst)
	l.Per = nft.LimitPeriod(unit)
	possible := l.Packets > 0 && l.Packets <= MaxConnectionRate && l.Burst > 0 && l.Burst <= MaxConnectionRate
	return l, err == nil && possible && v == nft.GotoChain(l.chainName())
}

// objects returns the sets and the chain of the limit. Frontends without a limit for all clients together have no element in rates. A
// client stays in the set of clients until its bucket is full again, so that an element that has expired makes no difference.
func (l clientLimit) objects(s *Schema) ([]*nft.Set, *nft.Chain) {
	over := nft.VerdictMap{Key: frontend, Map: s.OverLimit.Name}
	if l.Limit == (nft.Limit{}) {
		return s.ofLimits(), s.chain(LimitedChain,
			rule(over, in(frontend, s.Rates)),
			rule(nft.VerdictMap{Key: frontend, Map: s.WithinLimit.Name}),
			rule(nft.Verdict{Kind: nft.Drop})) // a commit has just removed the limits: the retransmission does not come here
	}
	clients := &nft.Set{Table: s.Table, Name: clientsSet + l.String(), Dynamic: true, Size: limitedClients, Limit: &l.Limit,
		Key: append([]nft.Type{s.Table.Family.AddrType()}, s.Services.Key...)}
	refill := time.Duration(l.Burst) * l.Per / time.Duration(l.Packets)
	exceeds := nft.OverLimit{Key: append(source[:1:1], frontend...), Set: clients.Name, Timeout: refill.Truncate(time.Second) + time.Second}
	return []*nft.Set{clients}, s.chain(l.chainName(), rule(over, exceeds), rule(nft.GotoChain(LimitedChain)))
}
