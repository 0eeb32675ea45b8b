package watcher

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"nfproxy/render"
)

// resource is a kind of object that is read from the API server, and what becomes of it in the catalog.
type resource struct {
	// name is what paths and rights call it.
	name    string
	version schema.GroupVersion
	object  runtime.Object
	// labels and fields select the objects. The server does it, so that one that is no longer meant is one removed.
	labels, fields string
	// optional says that there may be none of its kind, or no right to read it.
	optional bool
	// reduce returns what puts an object into the catalog. That holds what the catalog needs of it and nothing else.
	reduce func(runtime.Object) func(*catalog)
	remove func(*catalog, objectName)
	// names returns what the catalog has of it.
	names func(*catalog) []objectName
}

// resources are all that is read; kube-proxy reads the same (its informers' selectors in cmd/kube-proxy/app).
func resources(nodeName string) []resource {
	return []resource{
		{
			name:    "services",
			version: corev1.SchemeGroupVersion,
			object:  &corev1.Service{},
			labels:  "!" + labelServiceProxyName,
			fields:  "spec.clusterIP!=" + corev1.ClusterIPNone,
			reduce: func(o runtime.Object) func(*catalog) {
				s := reduceService(o.(*corev1.Service))
				return func(c *catalog) { c.putService(s) }
			},
			remove: func(c *catalog, n objectName) {
				c.removeService(render.ServiceName{Namespace: n.namespace, Name: n.name})
			},
			names: func(c *catalog) (names []objectName) {
				for n := range c.services {
					names = append(names, objectName{n.Namespace, n.Name})
				}
				return names
			},
		},
		{
			name:    "endpointslices",
			version: discoveryv1.SchemeGroupVersion,
			object:  &discoveryv1.EndpointSlice{},
			labels:  "!" + corev1.IsHeadlessService,
			reduce: func(o runtime.Object) func(*catalog) {
				s := reduceSlice(o.(*discoveryv1.EndpointSlice))
				return func(c *catalog) { c.putSlice(s) }
			},
			remove: (*catalog).removeSlice,
			names: func(c *catalog) (names []objectName) {
				for n := range c.named {
					names = append(names, n)
				}
				return names
			},
		},
		{
			name:    "nodes",
			version: corev1.SchemeGroupVersion,
			object:  &corev1.Node{},
			fields:  "metadata.name=" + nodeName,
			reduce: func(o runtime.Object) func(*catalog) {
				n := reduceNode(o.(*corev1.Node))
				return func(c *catalog) { c.putNode(n) }
			},
			remove: func(c *catalog, n objectName) { c.loseNode(n.name) },
			names: func(c *catalog) (names []objectName) {
				if c.node != nil {
					names = append(names, objectName{name: nodeName})
				}
				return names
			},
		},
		{
			name:     "servicecidrs",
			version:  networkingv1.SchemeGroupVersion,
			object:   &networkingv1.ServiceCIDR{},
			optional: true,
			reduce: func(o runtime.Object) func(*catalog) {
				s := reduceServiceCIDR(o.(*networkingv1.ServiceCIDR))
				return func(c *catalog) { c.putServiceCIDR(s) }
			},
			remove: func(c *catalog, n objectName) { c.removeServiceCIDR(n.name) },
			names: func(c *catalog) (names []objectName) {
				for name := range c.serviceCIDRs {
					names = append(names, objectName{name: name})
				}
				return names
			},
		},
	}
}
