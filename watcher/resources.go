package watcher

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"nfproxy/render"
)

// resource is a resource that is read from the API server.
type resource struct {
	// name is the plural name, as in paths and RBAC rules.
	name    string
	kind    string
	version schema.GroupVersion
	// object is an empty object of the resource's type.
	object runtime.Object
	// labels and fields select the objects. The API server evaluates the selectors, so an object that no longer matches
	// arrives as removed.
	labels, fields string
	// optional resources may be absent from the API server or forbidden by RBAC.
	optional bool
	// reduce returns what the catalog needs of an object. The result must not refer to the object.
	reduce func(runtime.Object) object
}

// resources returns all resources that are read. kube-proxy reads the same (its informers' selectors in cmd/kube-proxy/app).
//
// EndpointSlices are not selected by the label of the service proxy name, as in kube-proxy: the EndpointSlice controller copies the
// labels of a Service only later, and slices of other controllers may lack it.
func resources(n render.Node) []resource {
	all := []resource{
		{
			name:    "services",
			kind:    serviceKind,
			version: corev1.SchemeGroupVersion,
			object:  &corev1.Service{},
			labels:  servicesSelector(n.Instance),
			fields:  "spec.clusterIP!=" + corev1.ClusterIPNone,
			reduce:  func(o runtime.Object) object { return object{service: reduceService(o.(*corev1.Service), n.Instance)} },
		},
		{
			name:    "endpointslices",
			kind:    sliceKind,
			version: discoveryv1.SchemeGroupVersion,
			object:  &discoveryv1.EndpointSlice{},
			labels:  "!" + corev1.IsHeadlessService,
			reduce:  func(o runtime.Object) object { return object{slice: reduceSlice(o.(*discoveryv1.EndpointSlice))} },
		},
		{
			name:    "nodes",
			kind:    nodeKind,
			version: corev1.SchemeGroupVersion,
			object:  &corev1.Node{},
			fields:  "metadata.name=" + n.Name,
			reduce:  func(o runtime.Object) object { return object{node: reduceNode(o.(*corev1.Node))} },
		},
	}
	if n.Instance.Name() != "" {
		return all // the service CIDRs are those of all proxies together
	}
	return append(all, resource{
		name:     "servicecidrs",
		kind:     serviceCIDRKind,
		version:  networkingv1.SchemeGroupVersion,
		object:   &networkingv1.ServiceCIDR{},
		optional: true,
		reduce: func(o runtime.Object) object {
			return object{serviceCIDR: reduceServiceCIDR(o.(*networkingv1.ServiceCIDR))}
		},
	})
}

// servicesSelector returns the label selector of the Services of an instance.
func servicesSelector(i render.Instance) string {
	if i.Name() == "" {
		return "!" + labelServiceProxyName
	}
	return labelServiceProxyName + "=" + i.Name()
}
