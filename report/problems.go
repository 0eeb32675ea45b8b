package report

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"nfproxy/nft"
	"nfproxy/render"
)

// NotServing returns the frontends that refuse or drop connections, at least those from outside the node.
func NotServing(d Description) Description {
	all := d.Services
	d.Services = []ServicePort{}
	for _, s := range all {
		var frontends []Frontend
		for _, f := range s.Frontends {
			if f.Action == "refuse" || f.Action == "drop" || f.LocalEndpoints != nil && len(*f.LocalEndpoints) == 0 {
				frontends = append(frontends, f)
			}
		}
		if s.Frontends = frontends; len(frontends) > 0 {
			d.Services = append(d.Services, s)
		}
	}
	return d
}

// Comparison is the result of comparing tables with the desired state.
type Comparison struct {
	// Conflicts are the frontends that several Services claim.
	Conflicts []render.Conflict
	// Disallowed are the addresses of Services that the node's configuration disallows.
	Disallowed []DisallowedAddress
	// Oversized are the Services that cost more elements than one Service may, or that are left out because all together do.
	Oversized []OversizedService
	// Ignored are the annotations of Services and their EndpointSlices that are ignored.
	Ignored []render.IgnoredAnnotation
	// Changes turn the tables into the desired state. Unused load balancing chains do not count.
	Changes []nft.Change
}

// DisallowedAddress is an address in a field of a Service that the node's configuration disallows.
type DisallowedAddress struct {
	Address netip.Addr
	Service render.ServiceName
	Field   string
}

// String returns the address, the field and the Service.
func (d DisallowedAddress) String() string {
	return fmt.Sprintf("%s in %s of Service %s", d.Address, d.Field, d.Service)
}

// OversizedService is a Service that costs more elements than one Service may, or that is left out because all together do.
type OversizedService struct {
	Service render.ServiceName
	Excess  render.Excess
}

// String returns the Service and what is served of it.
func (o OversizedService) String() string { return fmt.Sprintf("%s: %s", o.Service, o.Excess) }

// oversizedService returns the first Service that would have an address if it were smaller.
func oversizedService(u render.Update, addr netip.Addr) (render.Service, bool) {
	for _, s := range u.Services {
		if slices.Contains(s.Unserved, addr) || s.Excess.ServesNothing() && slices.Contains(s.ClusterIPs, addr) {
			return s, true
		}
	}
	return render.Service{}, false
}

// Compare compares tables with the desired state, which holds every Service.
func Compare(desired render.Update, tables []*nft.Table) Comparison {
	var c Comparison
	for d := range disallowedAddresses(desired) {
		c.Disallowed = append(c.Disallowed, d)
	}
	for _, s := range desired.Services {
		c.Ignored = append(c.Ignored, render.IgnoredAnnotationsOf(desired.Node, s)...)
		if s.Excess != render.NoExcess {
			c.Oversized = append(c.Oversized, OversizedService{s.ServiceName, s.Excess})
		}
	}
	r := render.NewRuleset(desired.Node)
	c.Conflicts = r.Update(desired)
	r.Observe(tables)
	c.Changes = render.WithoutUnusedObjects(r.Plan())
	return c
}

func disallowedAddresses(u render.Update) iter.Seq[DisallowedAddress] {
	return func(yield func(DisallowedAddress) bool) {
		for _, s := range u.Services {
			for _, d := range render.DisallowedAddressesOf(u.Node, s) {
				for _, addr := range d.Addresses {
					if !yield(DisallowedAddress{addr, s.ServiceName, d.Field()}) {
						return
					}
				}
			}
		}
	}
}

// disallowedAddress finds the first Service for which an address is disallowed.
func disallowedAddress(u render.Update, addr netip.Addr) (DisallowedAddress, bool) {
	for d := range disallowedAddresses(u) {
		if d.Address == addr {
			return d, true
		}
	}
	return DisallowedAddress{}, false
}
