package render

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"nfproxy/nft"
)

// claimingService is a Service that claims frontends. All its claims share it.
type claimingService struct {
	name    ServiceName
	created time.Time
}

// claim is the claim of a Service to a frontend.
type claim struct {
	*claimingService
	kind Kind // what the address is to the Service
}

// before reports whether c takes precedence over d: by the kind of the frontend, then by the age of the Services, oldest first,
// then by their names.
func (c claim) before(d claim) bool {
	return cmp.Or(cmp.Compare(c.kind.rank(), d.kind.rank()), c.created.Compare(d.created), c.name.Compare(d.name)) < 0
}

// rank orders kinds by the origin of the address. The API server allocates a cluster IP or node port to one Service only, and a
// controller writes the addresses of load balancers. Users may write any external IP into a Service (CVE-2020-8554), so it
// never takes precedence over the others.
func (k Kind) rank() int {
	return slices.Index([]Kind{ClusterIP, NodePort, LoadBalancer, ExternalIP}, k)
}

// Conflict is a frontend that two Services claim.
type Conflict struct {
	Address       netip.AddrPort
	Protocol      nft.Protocol
	Winner, Loser ServiceName
	// WinnerKind and LoserKind are what the address is to these Services.
	WinnerKind, LoserKind Kind
}

// String describes the conflict in one sentence.
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
	f := FrontendOf(key)
	return Conflict{f.AddrPort, f.Protocol, a.name, b.name, a.kind, b.kind}
}

// claims holds the owner of each frontend: the Service whose claim takes precedence, whatever the order in which the claims
// came.
type claims struct {
	owners map[nft.Value]claim
	rivals map[nft.Value][]claim // the other claims to contested frontends
}

func newClaims() claims {
	return claims{make(map[nft.Value]claim), make(map[nft.Value][]claim)}
}

// Contested returns the number of frontends that more than one Service claims.
func (r *Ruleset) Contested() int { return len(r.claims.rivals) }

// Owner returns the Service that owns a frontend, the zero ServiceName if no Service claims it.
func (r *Ruleset) Owner(f Frontend) ServiceName { return r.claims.owner(f.Key()) }

func (c claims) owner(frontend nft.Value) ServiceName {
	if by := c.owners[frontend].claimingService; by != nil {
		return by.name
	}
	return ServiceName{}
}

// assert adds a claim. If the frontend has an owner already, assert returns its claim.
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

// release removes a claim. If it was the owner's and there are other claims, release returns the claim of the new owner.
func (c claims) release(frontend nft.Value, by *claimingService) (heir claim, ok bool) {
	rivals := slices.DeleteFunc(c.rivals[frontend], func(r claim) bool { return r.name == by.name })
	if c.owner(frontend) == by.name {
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

// claimedFrontend is a frontend that a Service claims.
type claimedFrontend struct {
	key  nft.Value
	kind Kind
}

// claimedFrontends returns the frontends of a fragment, in order.
func claimedFrontends(f nft.Fragment) []claimedFrontend {
	var all []claimedFrontend
	comments := make(map[nft.Value]string) // comments of the elements of the connections map
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

// without returns the elements of a that are not in b.
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
