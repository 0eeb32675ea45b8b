package render

import (
	"math/bits"
	"slices"

	"nfproxy/nft"
)

// draws is the number of random numbers that a balancing chain draws for a packet before it falls back to slot 0. At least
// half of the slots below the size have an endpoint, so that at most one packet in 2^16 falls back.
const draws = 16

// smallestSize is the size of the balancing chain for one or two endpoints: with one endpoint, a packet draws twice on average.
const smallestSize = 2

// balancingSize returns the size of the balancing chain for a number of endpoints: the smallest power of two, from smallestSize on,
// that is not smaller than the number.
// While the number of endpoints changes within the same size, the verdict of the frontend stays. The kernel checks all elements
// of a verdict map when one of them changes (nft_map_validate in net/netfilter/nf_tables_api.c), so that a changed verdict costs
// in proportion to the number of all Services, and a changed slot does not. See docs/design/0013-powers-of-two.md.
func balancingSize(endpoints int) int {
	return max(smallestSize, 1<<bits.Len(uint(endpoints-1)))
}

// balancingChains returns a balancing chain and the chain that draws for it, with their rules: rejection sampling. Each jump draws one of
// the slots below the size. If the slot has no endpoint, the next jump draws again. Each draw that finds an endpoint has found any of
// them with the same chance.
//
// A commit can come between two lookups of one packet: services sent the packet here by the old number of endpoints, and now the
// frontend has fewer. Then all draws may fail, but slot 0 exists as long as any does: see firstSlotChain and
// docs/design/0002-fallback-slot.md.
//
// The rule that looks up the endpoints exists once for each size: to add such a rule, the kernel goes through all elements of the map
// (nf_tables_bind_set in net/netfilter/nf_tables_api.c).
func (s *Schema) balancingChains(b BalancingChain) []*nft.Chain {
	if b.Hashing != NoHashing {
		return []*nft.Chain{s.hashChain(b)}
	}
	drawing := s.chain(b.drawing(), s.draw(b.Local, b.Size))
	jumps := slices.Repeat([]nft.Rule{rule(nft.Verdict{Kind: nft.Jump, Chain: drawing.Name})}, draws)
	return []*nft.Chain{drawing, s.chain(b.Name(), append(jumps, rule(nft.GotoChain(s.fallback(b.Local).drawing())))...)}
}

// fallback returns the BalancingChain for slot 0 alone, of which only the chain that draws exists.
func (s *Schema) fallback(local bool) BalancingChain {
	return BalancingChain{Family: s.Table.Family, Local: local, Size: 1}
}

// firstSlotChain returns the chain for packets whose draws have all failed. It sends them to slot 0, and drops them if the frontend
// has lost its last endpoint. If the packet passed untranslated, conntrack would keep the connection untranslated for good. If it is
// dropped, its retransmission starts anew.
func (s *Schema) firstSlotChain(local bool) *nft.Chain {
	return s.chain(s.fallback(local).drawing(), s.draw(local, 1), rule(nft.Verdict{Kind: nft.Drop}))
}

// draw returns the rule that translates a packet if one of the slots below mod, chosen at random, has an endpoint.
func (s *Schema) draw(local bool, mod int) nft.Rule {
	return s.lookup(local, nft.Field{Kind: nft.RandomNumber, Mod: uint32(mod)})
}

// lookup returns the rule that translates a packet to the endpoint in the slot that a field chooses, if there is one.
func (s *Schema) lookup(local bool, slot nft.Field) nft.Rule {
	endpoints := s.Endpoints
	if local {
		endpoints = s.LocalEndpoints
	}
	return rule(nft.DNAT{Key: append(slices.Clone(frontend), slot), Map: endpoints.Name})
}
