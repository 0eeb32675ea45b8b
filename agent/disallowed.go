package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"

	"nfproxy/render"
)

// refusals are the addresses that Services name and this node is set not to serve. The zero refusals are ready.
type disallowedAddresses struct {
	of    map[render.ServiceName][]render.DisallowedAddresses
	count int
}

// take notes what an update changes and tells of what is new, once for each Service and field.
func (r *disallowedAddresses) take(u render.Update, log *slog.Logger, events *events) {
	for _, name := range u.Removed {
		r.set(name, nil)
	}
	for _, s := range u.Services {
		refused := render.DisallowedAddressesOf(u.Node, s)
		if !r.set(s.ServiceName, refused) {
			continue
		}
		for _, a := range refused {
			log.Warn("a Service names addresses that this node is set not to serve",
				"object", "Service "+s.String(), "field", a.Field(), "addresses", someOf(a.Addresses))
			events.warn(s.ServiceName, reasonAddressRefused, fmt.Sprintf("%s in %s: nfproxy is set not to serve it", someOf(a.Addresses), a.Field()))
		}
	}
}

// set gives a Service other refused addresses, and says whether that changed something.
func (r *disallowedAddresses) set(name render.ServiceName, now []render.DisallowedAddresses) bool {
	had := r.of[name]
	if len(had)+len(now) == 0 || reflect.DeepEqual(had, now) {
		return false
	}
	if r.of == nil {
		r.of = make(map[render.ServiceName][]render.DisallowedAddresses)
	}
	r.count += total(now) - total(had)
	if r.of[name] = now; now == nil {
		delete(r.of, name)
	}
	return true
}

func total(refused []render.DisallowedAddresses) (n int) {
	for _, r := range refused {
		n += len(r.Addresses)
	}
	return n
}

// maxTold is how many addresses a message names.
const maxTold = 3

// someOf lists addresses: a Service can have any number.
func someOf(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs[:min(len(addrs), maxTold)] {
		texts = append(texts, a.String())
	}
	if more := len(addrs) - maxTold; more > 0 {
		texts = append(texts, fmt.Sprintf("%d more", more))
	}
	return strings.Join(texts, ", ")
}
