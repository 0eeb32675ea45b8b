package watcher

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"nfproxy/render"
)

// serviceCIDR is a ServiceCIDR: ranges from which cluster IPs are allocated (KEP-1880).
type serviceCIDR struct {
	name     string
	ranges   []netip.Prefix
	problems []Problem
}

// reduceServiceCIDR reduces a ServiceCIDR. Its ranges stay in use until it is removed, also while it is being deleted.
func reduceServiceCIDR(api *networkingv1.ServiceCIDR) *serviceCIDR {
	s := &serviceCIDR{name: api.Name}
	problems := newProblemList(&s.problems, objectKey{kind: serviceCIDRKind, name: api.Name})
	for i, text := range api.Spec.CIDRs {
		prefix, err := parsePrefix(text)
		if err != nil {
			problems.add(fmt.Sprintf("spec.cidrs[%d]", i), err.Error())
			continue
		}
		s.ranges = append(s.ranges, prefix)
	}
	return s
}

// allServiceCIDRs returns the ranges of the given node and those of all ServiceCIDRs, sorted. Without ServiceCIDRs it returns the given
// ranges as they are. An instance with a name has none: an address in them that it does not know can be that of another proxy's Service.
func (c *catalog) allServiceCIDRs(given render.Node) []netip.Prefix {
	if given.Instance.Name() != "" {
		return nil
	}
	if len(c.serviceCIDRs) == 0 {
		return given.ServiceCIDRs
	}
	all := slices.Clone(given.ServiceCIDRs)
	for _, s := range c.serviceCIDRs {
		all = append(all, s.ranges...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
