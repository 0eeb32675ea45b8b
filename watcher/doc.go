// Package watcher reads the state of a cluster and follows its changes. It turns Services and EndpointSlices into
// render.Service values, and completes the render.Node with the facts of this machine's Node object and of the ServiceCIDRs.
//
// The data flow, and the files it goes through:
//
//	API server                          directory of manifests
//	api.go, reflector.go, pace.go,      dir.go, inotify.go, readfile.go,
//	resources.go, restclients.go,       documents.go, manifest.go, manifestset.go
//	credentials.go, availability.go
//	         \                             /
//	          reduced objects: object.go
//	          service.go, port.go, slice.go, node.go, servicecidr.go
//	                      |
//	                  catalog.go <- nodeportaddrs.go, interfaceaddrs.go, defaultroute.go
//	                      |
//	                   join.go: render.Service
//	                      |
//	                render.Update, returned by Next
//
// open.go chooses the source by the settings.
//
// Both sources keep the same promises. Next blocks until something that the rules depend on has changed, and returns
// everything that has changed since the previous call, each Service whole. The first call returns the complete state, and
// only when all of it is known. Input that changes nothing is never reported, even if all of it is read again: after a lost
// connection, after a restart of the API server, or when another file contains the same objects. Next does not delay an
// Update to collect further changes. An invalid object is logged once, with its place and the field, and does not affect
// other objects. Close ends everything that the source has started.
//
// Objects are reduced on arrival to what the join needs, and the joined Services are kept for comparison. The memory of a
// source therefore does not depend on the other content of the objects, not even during the initial list. A change costs
// the join of the Services that it touches; a change of the node returns all Services as they were joined before, or those
// with node ports if only the addresses of node ports have changed.
//
// The sources differ in one point. A directory need not contain a Node, and when its Node is removed, its facts no longer
// hold. A cluster has a Node for every machine, so a machine must not get new connections from load balancers until it has
// one; the last state of a deleted Node stays in use.
//
// Package watcher does not decide what a Service means: package render selects endpoints, resolves conflicts and decides
// the fate of a packet. Package watcher writes neither to the kernel nor to the source.
package watcher
