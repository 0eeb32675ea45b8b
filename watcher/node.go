package watcher

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/render"
)

// taintToBeDeleted is the key of the taint that the cluster autoscaler sets on a node before it removes the node.
// kube-proxy's /healthz depends on it too (KEP-3836).
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// node is this machine's Node object, reduced to what the rules need.
type node struct {
	name, zone string
	// addresses holds at most one address per family, IPv4 first.
	addresses []netip.Addr
	podCIDRs  []netip.Prefix
	// leaving is true if the node is about to be removed from the cluster.
	leaving bool
	// deleted is true if the object has been deleted. The facts are then those of its last state.
	deleted  bool
	problems []Problem
}

// reduceNode reduces a Node.
func reduceNode(api *corev1.Node) *node {
	n := &node{
		name: api.Name,
		zone: api.Labels[corev1.LabelTopologyZone],
		leaving: api.DeletionTimestamp != nil ||
			slices.ContainsFunc(api.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted }),
	}
	problems := newProblemList(&n.problems, objectKey{kind: nodeKind, name: api.Name})
	n.addresses = reduceNodeAddresses(api.Status.Addresses, problems)
	n.podCIDRs = reducePodCIDRs(api.Spec, problems)
	return n
}

// reduceNodeAddresses returns the first InternalIP of each family or, if a family has none, the first ExternalIP, as kube-proxy does
// (pkg/util/node, GetNodeHostIPs). Addresses of other types are names.
func reduceNodeAddresses(api []corev1.NodeAddress, problems problemList) []netip.Addr {
	var addresses []netip.Addr
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i, a := range api {
			if a.Type != kind {
				continue
			}
			addr, err := parseAddr(a.Address)
			if err != nil {
				problems.add(fmt.Sprintf("status.addresses[%d].address", i), err.Error())
				continue
			}
			if _, ok := ofFamily(addresses, addr.Is4()); !ok {
				addresses = append(addresses, addr)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}

// reducePodCIDRs returns the ranges of the addresses of the node's Pods.
func reducePodCIDRs(spec corev1.NodeSpec, problems problemList) []netip.Prefix {
	var cidrs []netip.Prefix
	for i, text := range spec.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			problems.add(fmt.Sprintf("spec.podCIDRs[%d]", i), fmt.Sprintf("%q is not a CIDR", text))
			continue
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	return cidrs
}

// describe returns the given node with the facts of its Node object, if there is one. The given addresses stay if the object
// has none.
func (n *node) describe(given render.Node) render.Node {
	if n != nil {
		given.Zone = n.zone
		if len(n.addresses) > 0 {
			given.Addresses = n.addresses
		}
		if given.NodeCIDR {
			given.ClusterCIDRs = n.podCIDRs
		}
	}
	return given
}

// eligible reports whether load balancers may send new connections to the node, by the last state of its object: kube-proxy
// does not notice the deletion either (pkg/proxy/node.go, OnNodeDelete). Before there is an object they may unless it is
// required.
func (n *node) eligible(required bool) bool {
	if n == nil {
		return !required
	}
	return !n.leaving
}
