package metrics

import (
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// The values of kube-proxy's label traffic_policy.
const (
	internalPolicy = "internal"
	externalPolicy = "external"
)

// noLocalKey is what ports without local endpoints are counted by.
type noLocalKey struct {
	policy string
	family nft.Family
}

// noLocalTally counts, as updates come, the ports that drop connections for want of an endpoint on this node.
type noLocalTally struct {
	lacking map[render.ServiceName][]noLocalKey // a key for each port
	totals  map[noLocalKey]int
}

func newNoLocalTally() noLocalTally {
	return noLocalTally{make(map[render.ServiceName][]noLocalKey), make(map[noLocalKey]int)}
}

// take takes over what changed. When the node does, the update has all Services.
func (t *noLocalTally) take(u render.Update) {
	for _, name := range u.Removed {
		t.set(name, nil)
	}
	for _, s := range u.Services {
		t.set(s.ServiceName, lackingLocal(u.Node, s))
	}
}

func (t *noLocalTally) set(name render.ServiceName, keys []noLocalKey) {
	for _, key := range t.lacking[name] {
		t.totals[key]--
	}
	for _, key := range keys {
		t.totals[key]++
	}
	if len(keys) == 0 {
		delete(t.lacking, name)
	} else {
		t.lacking[name] = keys
	}
}

// lackingLocal returns a key for each port and family of the Service with a policy Local and usable endpoints, of which
// none is on the node. Without any usable endpoint the port refuses everybody, which is nothing about locality. As for
// kube-proxy a family without a cluster IP does not count (pkg/proxy/nftables/proxier.go, syncProxyRules). It also counts
// ports with the external policy that have no external address; here they do not, for nobody can come.
func lackingLocal(n render.Node, s render.Service) []noLocalKey {
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
