package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
	"slices"

	"nfproxy/nft"
)

// Hashing is what a frontend hashes to choose an endpoint, so that the same client or connection reaches the same endpoint through
// every node.
type Hashing uint8

const (
	NoHashing       Hashing = iota // the endpoint is chosen at random
	HashClients                    // the client's address
	HashConnections                // the client's address and port
)

// String returns the value of the annotation nfproxy.io/hash-on.
func (h Hashing) String() string {
	return [...]string{"", "client", "connection"}[h]
}

// DefaultMaglevSize is the default of Node.MaglevSize. With ten endpoints, the most loaded one gets 1 % more than the mean.
const DefaultMaglevSize = 1021

// MaxMaglevSize is the largest prime that is a number of slots.
const MaxMaglevSize = 65521

// IsMaglevSize reports whether a table may have this number of slots: a prime, so that every endpoint's permutation reaches all slots.
func IsMaglevSize(n int) bool {
	return n >= 3 && n <= MaxMaglevSize && big.NewInt(int64(n)).ProbablyPrime(0) // exact below 2^64
}

// hashes reports whether the frontends of a Service's endpoints hash. More endpoints than a table has slots are chosen at random.
func (n Node) hashes(s Service, endpoints []Endpoint) bool {
	return s.Hashing != NoHashing && len(endpoints) > 0 && len(endpoints) <= n.maglevSize()
}

func (n Node) maglevSize() int { return int(cmp.Or(n.MaglevSize, DefaultMaglevSize)) }

// maglev returns the endpoint of each slot, as an index: the table of Maglev (Eisenbud et al., NSDI 2016, section 3.4). Each endpoint has
// its own permutation of the slots, which follows from its address and port. In turn, each takes the next free slot of its
// permutation, an endpoint with a smaller weight less often. So the table depends on the endpoints alone, each endpoint has a share of
// the slots that is close to its weight, and few slots change when one endpoint comes or goes. There must be no more endpoints than slots,
// and at least one.
func maglev(endpoints []Endpoint, size int) []int {
	turns := make([]maglevTurns, len(endpoints))
	most := 0
	for i, e := range endpoints {
		turns[i] = newMaglevTurns(e, size)
		most = max(most, e.weight())
	}
	table := slices.Repeat([]int{-1}, size)
	for left, round := size, 1; ; round++ {
		for i := range turns {
			t := &turns[i]
			if round*endpoints[i].weight() < t.due {
				continue
			}
			t.due += most
			table[t.next(table)] = i
			if left--; left == 0 {
				return table
			}
		}
	}
}

// maglevTurns is an endpoint's permutation of the slots, from its next slot on.
type maglevTurns struct {
	slot, skip int
	// due is when the endpoint takes its next turn: in the first round whose number, times the endpoint's weight, is not less.
	due int
}

func newMaglevTurns(e Endpoint, size int) maglevTurns {
	at, _ := e.AddrPort.MarshalBinary() // never fails
	sum := sha256.Sum256(at)
	offset, skip := binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])
	return maglevTurns{slot: int(offset % uint64(size)), skip: 1 + int(skip%uint64(size-1))}
}

// next returns the next free slot of the permutation.
func (t *maglevTurns) next(table []int) int {
	for {
		slot := t.slot
		t.slot = (t.slot + t.skip) % len(table)
		if table[slot] < 0 {
			return slot
		}
	}
}

// maglevSlots returns the data of endpoints in the slots of a table, for frontends that hash.
func (n Node) maglevSlots(h Hashing, endpoints []Endpoint, data nft.Value) slots {
	size := n.maglevSize()
	each := packed{data, len(data) / len(endpoints)}
	counts := make([]int, len(endpoints))
	bySlot := make([]byte, 0, size*each.width)
	for _, i := range maglev(endpoints, size) {
		counts[i]++
		bySlot = append(bySlot, each.at(i)...)
	}
	return slots{endpoints: nft.Value(bySlot), sorted: repeated(data, counts), hashing: h}
}

// hashChain returns the chain that looks up the slot of a hash. All slots have an endpoint; a packet that a commit overtakes can find
// one empty, and goes to slot 0: see docs/design/0002-fallback-slot.md.
func (s *Schema) hashChain(b BalancingChain) *nft.Chain {
	field := nft.Field{Kind: nft.ClientHash, Mod: uint32(b.Size)}
	if b.Hashing == HashConnections {
		field.Kind = nft.ConnectionHash
	}
	return s.chain(b.Name(), s.lookup(b.Local, field), rule(nft.GotoChain(s.fallback(b.Local).drawing())))
}
