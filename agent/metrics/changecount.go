package metrics

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// changeCounter counts changed Services and changed endpoints separately. An update contains each Service joined with its
// endpoints, and all Services when the node changes, so the counter compares fingerprints with those of earlier updates.
type changeCounter struct {
	seed         maphash.Seed
	fingerprints map[render.ServiceName]fingerprint
}

// fingerprint is a hash of a Service without its endpoints, and one of its endpoints, which is 0 without endpoints. Neither
// depends on the order of addresses, ports or endpoints.
type fingerprint struct{ service, endpoints uint64 }

func newChangeCounter() changeCounter {
	return changeCounter{maphash.MakeSeed(), make(map[render.ServiceName]fingerprint)}
}

// update returns the number of Services that were added, removed or changed apart from their endpoints, and the number of
// Services whose endpoints changed.
func (c *changeCounter) update(u render.Update) (services, endpoints int) {
	compare := func(before, after fingerprint) {
		if before.service != after.service {
			services++
		}
		if before.endpoints != after.endpoints {
			endpoints++
		}
	}
	for _, name := range u.Removed {
		compare(c.fingerprints[name], fingerprint{})
		delete(c.fingerprints, name)
	}
	for _, s := range u.Services {
		after := c.fingerprint(s)
		compare(c.fingerprints[s.ServiceName], after)
		c.fingerprints[s.ServiceName] = after
	}
	return services, endpoints
}

// fingerprint returns sums of hashes: one hash for each address, range, port and endpoint.
func (c *changeCounter) fingerprint(s render.Service) (f fingerprint) {
	f.service = maphash.Comparable(c.seed, hashedService{s.Created.UnixNano(), s.Affinity, s.InternalLocal, s.ExternalLocal,
		s.HealthCheckNodePort})
	for _, group := range []struct {
		kind  render.Kind
		addrs []netip.Addr
	}{{render.ClusterIP, s.ClusterIPs}, {render.ExternalIP, s.ExternalIPs}, {render.LoadBalancer, s.LoadBalancerIPs}} {
		for _, addr := range group.addrs {
			f.service += maphash.Comparable(c.seed, hashedAddress{group.kind, addr})
		}
	}
	for _, r := range s.SourceRanges {
		f.service += maphash.Comparable(c.seed, r)
	}
	for _, p := range s.Ports {
		f.service += maphash.Comparable(c.seed, hashedPort{p.Name, p.Protocol, p.Port, p.NodePort})
		for _, e := range p.Endpoints {
			f.endpoints += maphash.Comparable(c.seed, hashedEndpoint{p.Name, p.Protocol, p.Port, e.AddrPort, e.Node, e.Ready,
				e.Serving, e.Terminating, hintsText(e)})
		}
	}
	return f
}

// The values that are hashed.
type (
	hashedService struct {
		created                      int64
		affinity                     time.Duration
		internalLocal, externalLocal bool
		healthCheckNodePort          uint16
	}
	hashedAddress struct {
		kind render.Kind
		addr netip.Addr
	}
	hashedPort struct {
		name           string
		protocol       nft.Protocol
		port, nodePort uint16
	}
	hashedEndpoint struct {
		portName                    string
		protocol                    nft.Protocol
		port                        uint16
		addrPort                    netip.AddrPort
		node                        string
		ready, serving, terminating bool
		hints                       string
	}
)

// hintsText returns an endpoint's hints as text. Zone and node names contain neither spaces nor slashes.
func hintsText(e render.Endpoint) string {
	if e.Hints == nil {
		return ""
	}
	return strings.Join(e.Hints.Zones, " ") + "/" + strings.Join(e.Hints.Nodes, " ")
}
