package render

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
)

// claim is a Service's wish for a frontend.
type claim struct {
	name    ServiceName
	created time.Time
}

// before says whether c has the better right: the older Service, then the one first by name.
func (c claim) before(d claim) bool {
	return cmp.Or(c.created.Compare(d.created), c.name.Compare(d.name)) < 0
}

// Conflict is a frontend that two Services claim.
type Conflict struct {
	Address       netip.AddrPort
	Protocol      nft.Protocol
	Winner, Loser ServiceName
}

// String says it in words.
func (c Conflict) String() string {
	return fmt.Sprintf("%s/%s belongs to Service %s, which is older or first by name; Service %s claims it as well",
		c.Address, c.Protocol, c.Winner, c.Loser)
}

func newConflict(key nft.Value, a, b claim) Conflict {
	if b.before(a) {
		a, b = b, a
	}
	n := len(key)
	return Conflict{netip.AddrPortFrom(key[:n-3].Addr(), key[n-2:].Uint16()), key[n-3 : n-2].Proto(), a.name, b.name}
}

// claims says which Service owns each frontend. Who comes first is a matter of the claims, not of their order.
type claims struct {
	owners map[nft.Value]claim
	rivals map[nft.Value][]claim // of contested frontends
}

func newClaims() claims {
	return claims{make(map[nft.Value]claim), make(map[nft.Value][]claim)}
}

// Contested is how many frontends more than one Service claims.
func (r *Ruleset) Contested() int { return len(r.claims.rivals) }

func (c claims) owner(frontend nft.Value) ServiceName { return c.owners[frontend].name }

// assert enters a claim. When there are others it returns the best of them: the owner so far.
func (c claims) assert(frontend nft.Value, by claim) (other claim, contested bool) {
	other, contested = c.owners[frontend]
	switch {
	case !contested:
		c.owners[frontend] = by
	case by.before(other):
		c.owners[frontend] = by
		c.rivals[frontend] = append(c.rivals[frontend], other)
	default:
		c.rivals[frontend] = append(c.rivals[frontend], by)
	}
	return other, contested
}

// release withdraws a claim and returns who inherits the frontend, if it was the owner's and others claim it.
func (c claims) release(frontend nft.Value, by claim) (heir claim, ok bool) {
	rivals := slices.DeleteFunc(c.rivals[frontend], func(r claim) bool { return r.name == by.name })
	if c.owners[frontend].name == by.name {
		delete(c.owners, frontend)
		if len(rivals) > 0 {
			heir, ok = slices.MinFunc(rivals, func(a, b claim) int {
				if a.before(b) {
					return -1
				}
				return 1
			}), true
			c.owners[frontend] = heir
			rivals = slices.DeleteFunc(rivals, func(r claim) bool { return r == heir })
		}
	}
	if len(rivals) == 0 {
		delete(c.rivals, frontend)
	} else {
		c.rivals[frontend] = rivals
	}
	return heir, ok
}

// frontends lists the frontends of a fragment, in order.
func frontends(f nft.Fragment) []nft.Value {
	var keys []nft.Value
	for _, m := range f {
		if isServices(m.Set) {
			keys = append(keys, m.Key)
		}
	}
	return keys
}

// without returns what of a is not in b.
func without(a, b []nft.Value) []nft.Value {
	in := make(map[nft.Value]bool, len(b))
	for _, k := range b {
		in[k] = true
	}
	var rest []nft.Value
	for _, k := range a {
		if !in[k] {
			rest = append(rest, k)
		}
	}
	return rest
}
