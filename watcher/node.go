package watcher

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/render"
)

// taintToBeDeleted is what the cluster autoscaler marks a node with that it is about to remove; kube-proxy's /healthz heeds
// it too (KEP-3836).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// node is what the rules need of this machine's Node object.
type node struct {
	zone string
	// addresses has at most one per family, IPv4 first.
	addresses []netip.Addr
	podCIDRs  []netip.Prefix
	// leaving says that the node is about to be removed from the cluster, lost that its object already is.
	leaving, lost bool
	problems      []Problem
}

// reduceNode takes the zone and the first internal address of each family from a Node, with every problem found on the
// way.
func reduceNode(api *corev1.Node) *node {
	n := &node{
		zone: api.Labels[corev1.LabelTopologyZone],
		leaving: api.DeletionTimestamp != nil ||
			slices.ContainsFunc(api.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted }),
	}
	note := noter(&n.problems, objectKey{kind: "Node", name: api.Name})
	for i, a := range api.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		addr, err := parseAddr(a.Address)
		if err != nil {
			note.add(fmt.Sprintf("status.addresses[%d].address", i), err.Error())
			continue
		}
		if _, ok := ofFamily(n.addresses, addr.Is4()); !ok {
			n.addresses = append(n.addresses, addr)
		}
	}
	slices.SortFunc(n.addresses, netip.Addr.Compare)
	n.podCIDRs = reducePodCIDRs(api.Spec, note)
	return n
}

// reducePodCIDRs returns the ranges that the Node's pods have their addresses from.
func reducePodCIDRs(spec corev1.NodeSpec, note notes) []netip.Prefix {
	var cidrs []netip.Prefix
	for i, text := range spec.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			note.add(fmt.Sprintf("spec.podCIDRs[%d]", i), fmt.Sprintf("%q is not a CIDR", text))
			continue
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	return cidrs
}

// describe returns this machine as the rules need it: as given, with what its Node object says if there is one.
func (n *node) describe(given render.Node) render.Node {
	if n != nil {
		given.Zone, given.Addresses = n.zone, n.addresses
		if given.NodeCIDR {
			given.ClusterCIDRs = n.podCIDRs
		}
	}
	return given
}

// eligible tells whether load balancers may send the node something new. Without a Node object they may if there need not
// be one.
func (n *node) eligible(needed bool) bool {
	if n == nil {
		return !needed
	}
	return !n.leaving && !n.lost
}
