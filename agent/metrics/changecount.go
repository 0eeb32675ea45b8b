package metrics

import (
	"hash/maphash"
	"net/netip"
	"strings"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// changeCounter tells the Services that changed from those whose endpoints did: an update has them joined, and all of
// them when the node changes. It remembers fingerprints and not Services.
type changeCounter struct {
	seed   maphash.Seed
	prints map[render.ServiceName]fingerprint
}

// fingerprint is of a Service without its endpoints, and of its endpoints: 0 if there is none. Neither depends on the
// order of anything, which means nothing.
type fingerprint struct{ service, endpoints uint64 }

func newChangeCounter() changeCounter {
	return changeCounter{maphash.MakeSeed(), make(map[render.ServiceName]fingerprint)}
}

// take returns how many Services came, went or changed but for their endpoints, and of how many the endpoints changed.
func (c *changeCounter) take(u render.Update) (services, endpoints int) {
	note := func(had, has fingerprint) {
		if had.service != has.service {
			services++
		}
		if had.endpoints != has.endpoints {
			endpoints++
		}
	}
	for _, name := range u.Removed {
		note(c.prints[name], fingerprint{})
		delete(c.prints, name)
	}
	for _, s := range u.Services {
		has := c.of(s)
		note(c.prints[s.ServiceName], has)
		c.prints[s.ServiceName] = has
	}
	return services, endpoints
}

// of is a sum of hashes, one for each thing there is.
func (c *changeCounter) of(s render.Service) (f fingerprint) {
	f.service = maphash.Comparable(c.seed, hashedService{s.Created.UnixNano(), s.Affinity, s.InternalLocal, s.ExternalLocal,
		s.HealthCheckNodePort})
	for _, one := range []struct {
		kind  render.Kind
		addrs []netip.Addr
	}{{render.ClusterIP, s.ClusterIPs}, {render.ExternalIP, s.ExternalIPs}, {render.LoadBalancer, s.LoadBalancerIPs}} {
		for _, addr := range one.addrs {
			f.service += maphash.Comparable(c.seed, hashedAddress{one.kind, addr})
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

// What is hashed of a Service.
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
		at                          netip.AddrPort
		node                        string
		ready, serving, terminating bool
		hints                       string
	}
)

// hintsText is an endpoint's hints; no name has a space or a slash.
func hintsText(e render.Endpoint) string {
	if e.Hints == nil {
		return ""
	}
	return strings.Join(e.Hints.Zones, " ") + "/" + strings.Join(e.Hints.Nodes, " ")
}
