package agent

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// disallowedAddresses holds the addresses that Services ask for and that this node is set not to serve. The zero value is empty
// and ready to use.
type disallowedAddresses struct {
	of    findings[render.DisallowedAddresses]
	count int
}

// take applies an Update and reports what is new, once for each Service and field.
func (d *disallowedAddresses) take(u render.Update, lines *ratelimit.Log, events *events) {
	for _, name := range u.Removed {
		d.set(name, nil)
	}
	for _, s := range u.Services {
		now := render.DisallowedAddressesOf(u.Node, s)
		if !d.set(s.ServiceName, now) {
			continue
		}
		for _, a := range now {
			if log, ok := lines.About(s.String(), reasonAddressRefused); ok {
				log.Warn("a Service names addresses that this node is set not to serve",
					"object", "Service "+s.String(), "field", a.Field(), "addresses", first(a.Addresses))
			}
			events.warn(s.ServiceName, reasonAddressRefused, fmt.Sprintf("%s in %s: nfproxy is set not to serve it", first(a.Addresses), a.Field()))
		}
	}
}

// set replaces the disallowed addresses of a Service and reports whether that changed anything.
func (d *disallowedAddresses) set(name render.ServiceName, now []render.DisallowedAddresses) bool {
	had := d.of.replace(name, now)
	d.count += total(now) - total(had)
	return !reflect.DeepEqual(had, now)
}

func total(all []render.DisallowedAddresses) (n int) {
	for _, a := range all {
		n += len(a.Addresses)
	}
	return n
}

// maxNamed is the number of addresses that a message names.
const maxNamed = 3

// first lists the first addresses and the number of the others: a Service can have any number of them.
func first(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs[:min(len(addrs), maxNamed)] {
		texts = append(texts, a.String())
	}
	if more := len(addrs) - maxNamed; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}
