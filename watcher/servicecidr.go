package watcher

import (
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// serviceCIDR is a ServiceCIDR: ranges that cluster IPs come from (KEP-1880).
type serviceCIDR struct {
	name     string
	ranges   []netip.Prefix
	problems []Problem
}

// reduceServiceCIDR takes the ranges from a ServiceCIDR. One that is being deleted has them until it is gone.
func reduceServiceCIDR(api *networkingv1.ServiceCIDR) *serviceCIDR {
	s := &serviceCIDR{name: api.Name}
	note := noter(&s.problems, objectKey{kind: "ServiceCIDR", name: api.Name})
	for i, text := range api.Spec.CIDRs {
		prefix, err := parsePrefix(text)
		if err != nil {
			note.add(fmt.Sprintf("spec.cidrs[%d]", i), err.Error())
			continue
		}
		s.ranges = append(s.ranges, prefix)
	}
	return s
}

// allServiceCIDRs returns the ranges of all ServiceCIDRs and those given besides, sorted, or those given if there is no
// other.
func (c *catalog) allServiceCIDRs(given []netip.Prefix) []netip.Prefix {
	if len(c.serviceCIDRs) == 0 {
		return given
	}
	all := slices.Clone(given)
	for _, s := range c.serviceCIDRs {
		all = append(all, s.ranges...)
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
