package nft

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
)

// balancing returns a table that draws a slot below size from a map with slots 0 to filled-1, draws times, then takes slot 0.
func balancing(size, filled, draws int) *Table {
	id := TableID{IPv4, "t"}
	slots := &Set{Table: id, Name: "slots", Key: []Type{SlotNumber}, Data: []Type{IPv4Addr, InetService}}
	for i := range filled {
		slots.Elements = append(slots.Elements, Element{Key: Slot(uint16(i)), Data: Addr(slotAddr(i).Addr()) + Port(slotAddr(i).Port())})
	}
	draw := func(mod int) Rule {
		return Rule{Do: DNAT{Key: []Field{{Kind: RandomNumber, Mod: uint32(mod)}}, Map: "slots"}}
	}
	chain := &Chain{Name: "out", Hook: Output}
	for range draws {
		chain.Rules = append(chain.Rules, draw(size))
	}
	chain.Rules = append(chain.Rules, draw(1), Rule{Do: Verdict{Kind: Drop}})
	return &Table{TableID: id, Sets: []*Set{slots}, Chains: []*Chain{chain}}
}

func slotAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 8080)
}

// TestSimulateAll: the chances are those that counting all sequences of draws gives.
func TestSimulateAll(t *testing.T) {
	for _, c := range []struct{ size, filled, draws int }{{1, 1, 1}, {2, 2, 3}, {2, 1, 4}, {4, 3, 5}, {8, 5, 4}, {8, 0, 3}, {4, 4, 1}} {
		t.Run(fmt.Sprintf("%d of %d slots, %d draws", c.filled, c.size, c.draws), func(t *testing.T) {
			table := balancing(c.size, c.filled, c.draws)
			packet := Packet{Hook: Output, Protocol: TCP, Destination: netip.MustParseAddrPort("10.0.0.1:80")}
			want := countSequences(c.size, c.filled, c.draws)
			got := SimulateAll(table, packet, math.MaxInt)
			draws := 0
			for _, end := range got.Ends {
				to := end.Path.To(packet.Destination)
				if math.Abs(end.Chance-want[to]) > 1e-12 {
					t.Errorf("to %v: chance %v, want %v", to, end.Chance, want[to])
				}
				delete(want, to)
				draws += end.Draws
			}
			if len(want) > 0 || draws != got.Found || got.Found != c.filled || got.Choices != c.size || got.Simulated != c.size {
				t.Errorf("missing %v, in %+v", want, got)
			}
		})
	}
}

// countSequences returns the chance of each end, found by trying every sequence of draws.
func countSequences(size, filled, draws int) map[netip.AddrPort]float64 {
	chances := make(map[netip.AddrPort]float64)
	sequences := int(math.Pow(float64(size), float64(draws)))
	for sequence := range sequences {
		end := netip.AddrPort{}
		if filled > 0 {
			end = slotAddr(0)
		}
		for rest, left := sequence, draws; left > 0; rest, left = rest/size, left-1 {
			if slot := rest % size; slot < filled {
				end = slotAddr(slot)
				break
			}
		}
		chances[end] += 1 / float64(sequences)
	}
	return chances
}

// TestSimulateAllBounded: after the given number of steps no further number is simulated.
func TestSimulateAllBounded(t *testing.T) {
	packet := Packet{Hook: Output, Protocol: TCP, Destination: netip.MustParseAddrPort("10.0.0.1:80")}
	got := SimulateAll(balancing(1<<16, 10, 1), packet, 20)
	if got.Choices != 1<<16 || got.Simulated < 10 || got.Simulated > 21 {
		t.Errorf("%d of %d numbers simulated", got.Simulated, got.Choices)
	}
}
