package nft

import (
	"math"
	"net/netip"
)

// Branches are the ends that a packet can reach, depending on the random numbers that the kernel draws for it.
type Branches struct {
	// Ends has one Branch for each destination to which the packet can be translated, and one if it can end otherwise.
	Ends []Branch
	// Found is how many of the numbers that can be drawn first find an element.
	Found int
	// Simulated is how many of the numbers were simulated, Choices how many there are. Simulated is smaller if the simulations took
	// too many steps; the chances are then those of the numbers simulated.
	Simulated, Choices int
}

// Branch is one of the ends of a packet.
type Branch struct {
	// Path is one that ends there, if possible one whose first draw finds an element.
	Path Path
	// Draws is how many of the Found numbers lead there when they are drawn first.
	Draws int
	// Chance is the probability that the packet ends there, between 0 and 1.
	Chance float64
}

// To returns the destination to which the packet is translated, the zero value if it is not translated, redirected to this machine,
// or not accepted.
func (p Path) To(original netip.AddrPort) netip.AddrPort {
	if p.Outcome != Accepted || p.Redirected || p.Destination == original {
		return netip.AddrPort{}
	}
	return p.Destination
}

// SimulateAll simulates a packet with each number that the kernel can draw for it. The chances are exact for rules that
// draw with one modulus and do so again only when the draw before found no element. It stops after the simulation with which all of
// them together exceed maxSteps steps.
func SimulateAll(t *Table, p Packet, maxSteps int) Branches {
	b := Branches{Choices: 1}
	index := make(map[netip.AddrPort]int) // in Ends, by destination
	fallback, misses, steps := 0, 0, 0
	for ; b.Simulated < b.Choices && steps <= maxSteps; b.Simulated++ {
		p.Draw = uint32(b.Simulated)
		path := Simulate(t, p)
		steps += len(path.Steps)
		b.Choices = max(b.Choices, int(path.Choices))
		to := path.To(p.Destination)
		i, known := index[to]
		if !known {
			i = len(b.Ends)
			index[to], b.Ends = i, append(b.Ends, Branch{Path: path})
		}
		if path.Misses > 0 {
			fallback, misses = i, path.Misses
			continue
		}
		if end := &b.Ends[i]; end.Draws == 0 {
			end.Path = path
		}
		b.Ends[i].Draws++
		b.Found++
	}
	b.weigh(fallback, misses)
	return b
}

// weigh sets the chances of the ends. After a number of misses the packet ends at the fallback.
func (b *Branches) weigh(fallback, misses int) {
	fails := 0.0 // the chance that every draw finds no element
	if b.Found < b.Simulated {
		fails = math.Pow(1-float64(b.Found)/float64(b.Simulated), float64(misses))
		b.Ends[fallback].Chance = fails
	}
	for i := range b.Ends {
		if b.Found > 0 {
			b.Ends[i].Chance += (1 - fails) * float64(b.Ends[i].Draws) / float64(b.Found)
		}
	}
}
