package watcher

import (
	"cmp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// The kinds of objects that sources read.
const (
	serviceKind     = "Service"
	sliceKind       = "EndpointSlice"
	nodeKind        = "Node"
	serviceCIDRKind = "ServiceCIDR"
)

// objectKey identifies an object. The namespace is empty for Nodes and ServiceCIDRs.
type objectKey struct {
	kind, namespace, name string
}

// String returns the kind and the name, such as "Service default/web".
func (k objectKey) String() string {
	if k.namespace == "" {
		return strings.TrimSpace(k.kind + " " + k.name)
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

func compareKeys(a, b objectKey) int { return strings.Compare(a.String(), b.String()) }

// namespace returns the namespace of an object whose metadata contains s.
func namespace(s string) string { return cmp.Or(s, corev1.NamespaceDefault) }

// object is an API object reduced to what the catalog needs. Exactly one field is set.
type object struct {
	service     *service
	slice       *slice
	node        *node
	serviceCIDR *serviceCIDR
}
