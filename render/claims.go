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
	kind    Kind // what the address is to the Service
}

// before says whether c has the better right: by what the address is to the Services, then the older, then the one first by
// name.
func (c claim) before(d claim) bool {
	return cmp.Or(cmp.Compare(c.kind.rank(), d.kind.rank()), c.created.Compare(d.created), c.name.Compare(d.name)) < 0
}

// rank orders kinds by who says them. The API server gives cluster IPs and node ports to one Service alone, a controller
// writes load balancers' addresses; external IPs are whatever somebody wrote into a Service (CVE-2020-8554), and take
// nothing from the others.
func (k Kind) rank() int {
	return slices.Index([]Kind{ClusterIP, NodePort, LoadBalancer, ExternalIP}, k)
}

// Conflict is a frontend that two Services claim.
type Conflict struct {
	Address       netip.AddrPort
	Protocol      nft.Protocol
	Winner, Loser ServiceName
	// WinnerKind and LoserKind are what the address is to them.
	WinnerKind, LoserKind Kind
}

// String says it in words.
func (c Conflict) String() string {
	if c.WinnerKind.rank() != c.LoserKind.rank() {
		return fmt.Sprintf("%s/%s belongs to Service %s as its %s; Service %s claims it as its %s",
			c.Address, c.Protocol, c.Winner, c.WinnerKind, c.Loser, c.LoserKind)
	}
	return fmt.Sprintf("%s/%s belongs to Service %s, which is older or first by name; Service %s claims it as well",
		c.Address, c.Protocol, c.Winner, c.Loser)
}

func newConflict(key nft.Value, a, b claim) Conflict {
	if b.before(a) {
		a, b = b, a
	}
	n := len(key)
	return Conflict{netip.AddrPortFrom(key[:n-3].Addr(), key[n-2:].Uint16()), key[n-3 : n-2].Proto(), a.name, b.name, a.kind, b.kind}
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

// Owner returns the Service that owns a frontend, the zero ServiceName if no Service claims it.
func (r *Ruleset) Owner(f Frontend) ServiceName { return r.claims.owner(f.Key()) }

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

// kindred is a frontend and what its address is to the Service.
type claimedFrontend struct {
	key  nft.Value
	kind Kind
}

// frontends lists the frontends of a fragment, in order.
func claimedFrontends(f nft.Fragment) []claimedFrontend {
	var all []claimedFrontend
	comments := make(map[nft.Value]string) // of the connections map
	for _, m := range f {
		if isConnections(m.Set) {
			comments[m.Key] = m.Comment
		}
	}
	for _, m := range f {
		if isServices(m.Set) {
			all = append(all, claimedFrontend{m.Key, KindOf(comments[m.Key])})
		}
	}
	return all
}

// without returns what of a is not in b.
func without[T comparable](a, b []T) []T {
	in := make(map[T]bool, len(b))
	for _, k := range b {
		in[k] = true
	}
	var rest []T
	for _, k := range a {
		if !in[k] {
			rest = append(rest, k)
		}
	}
	return rest
}
