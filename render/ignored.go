package render

import (
	"fmt"

	"nfproxy/nft"
)

// IgnoredAnnotation is an annotation of a Service or of one of its EndpointSlices that does not have the effect that it asks for.
type IgnoredAnnotation struct {
	// Object is the kind and the name, such as "EndpointSlice default/web-1", and Field the path of the field.
	Object, Field string
	// Detail is the reason, and what applies.
	Detail string
}

// String returns the field, the object and the detail.
func (a IgnoredAnnotation) String() string {
	return fmt.Sprintf("%s of %s: %s", a.Field, a.Object, a.Detail)
}

// IgnoredAnnotationsOf returns the annotations of a Service and its EndpointSlices that are ignored: those that the source has found
// invalid, and consistent hashing of more endpoints than a table has slots.
func IgnoredAnnotationsOf(n Node, s Service) []IgnoredAnnotation {
	if s.Hashing == NoHashing {
		return s.Ignored
	}
	all := s.Ignored[:len(s.Ignored):len(s.Ignored)] // appending makes a copy
	for _, p := range s.Ports {
		if len(p.Endpoints) <= n.maglevSize() {
			continue
		}
		for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
			if selected := Select(n, p, f); max(len(selected.Cluster), len(selected.Local)) > n.maglevSize() {
				all = append(all, IgnoredAnnotation{"Service " + s.String(), "metadata.annotations[nfproxy.io/lb-algorithm]", fmt.Sprintf(
					"port %q has more endpoints of a family than --maglev-table-size has slots, %d; they are chosen at random", p.Name, n.maglevSize())})
				break
			}
		}
	}
	return all
}
