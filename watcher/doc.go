// Package watcher is where the cluster comes in: it joins Services and EndpointSlices into render.Service values,
// completes the render.Node with what this machine's Node object says, and tells what changed.
//
// The promise of a source, whatever it watches: Next blocks until something that the rules depend on has changed and
// returns everything that changed since the last call, each Service whole. The first call returns all there is. What
// changes nothing is never reported. A bad object is logged once, naming its place and field, and stops no other.
//
// Objects are reduced to what the join needs when they arrive, and joined Services are kept to compare with: a source's
// memory does not grow with what else the objects carry. A change costs the join of the Services it touches; one
// of the node returns all of them again as they were joined.
//
// Package watcher does not decide what a Service means: which endpoints serve, what wins a conflict and what a packet
// meets is for package render. It writes nothing, neither to the kernel nor to the source.
package watcher
