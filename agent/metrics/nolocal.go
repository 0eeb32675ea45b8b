package metrics

import (
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// The values of the label traffic_policy.
const (
	internalPolicy = "internal"
	externalPolicy = "external"
)

// noLocalKey is a traffic policy and a family, by which ports without local endpoints are counted.
type noLocalKey struct {
	policy string
	family nft.Family
}

// noLocalCounter counts the Service ports that drop connections because they have no endpoint on this node.
type noLocalCounter struct {
	ports  map[render.ServiceName][]noLocalKey // one key per port and policy
	totals map[noLocalKey]int
}

func newNoLocalCounter() noLocalCounter {
	return noLocalCounter{make(map[render.ServiceName][]noLocalKey), make(map[noLocalKey]int)}
}

// update applies an update. When the node changes, the update contains all Services.
func (c *noLocalCounter) update(u render.Update) {
	for _, name := range u.Removed {
		c.set(name, nil)
	}
	for _, s := range u.Services {
		c.set(s.ServiceName, portsWithoutLocal(u.Node, s))
	}
}

// set replaces the keys of a Service.
func (c *noLocalCounter) set(name render.ServiceName, keys []noLocalKey) {
	for _, key := range c.ports[name] {
		c.totals[key]--
	}
	for _, key := range keys {
		c.totals[key]++
	}
	if len(keys) == 0 {
		delete(c.ports, name)
	} else {
		c.ports[name] = keys
	}
}

// portsWithoutLocal returns a key for each port and family of the Service that has a traffic policy Local and usable
// endpoints, none of them on the node. A port without any usable endpoint is not included: it refuses connections whatever
// its policy. Like kube-proxy, the function ignores a family without a cluster IP (pkg/proxy/nftables/proxier.go,
// syncProxyRules). Unlike kube-proxy, it ignores an external policy without an external address or node port, because no
// connection can arrive.
func portsWithoutLocal(n render.Node, s render.Service) []noLocalKey {
	if !s.InternalLocal && !s.ExternalLocal {
		return nil
	}
	var keys []noLocalKey
	for _, p := range s.Ports {
		for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
			if !hasFamily(s.ClusterIPs, f) {
				continue
			}
			selected := render.Select(n, p, f)
			if len(selected.Cluster) == 0 || len(selected.Local) > 0 {
				continue
			}
			if s.InternalLocal {
				keys = append(keys, noLocalKey{internalPolicy, f})
			}
			if s.ExternalLocal && (p.NodePort != 0 || hasFamily(s.ExternalIPs, f) || hasFamily(s.LoadBalancerIPs, f)) {
				keys = append(keys, noLocalKey{externalPolicy, f})
			}
		}
	}
	return keys
}

func hasFamily(addrs []netip.Addr, f nft.Family) bool {
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool { return render.Family(a) == f })
}
