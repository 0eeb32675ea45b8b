// Package watcher is where the cluster comes in: it joins Services and EndpointSlices into render.Service values,
// completes the render.Node with what this machine's Node object and the ServiceCIDRs say, and tells what changed. There
// are two sources: Dir reads a directory of manifests, API follows the API server.
//
// The promise of a source, whatever it watches: Next blocks until something that the rules depend on has changed and
// returns everything that changed since the last call, each Service whole. The first call returns all there is, and not
// before that is known. What changes nothing is never reported, also not when all of it is read again: after a lost
// connection, a restart of the API server, another file with the same objects. Nothing waits to see whether more comes.
// A bad object is logged once, naming its place and field, and stops no other. Close ends everything a source has begun.
//
// Objects are reduced to what the join needs when they arrive, and joined Services are kept to compare with: a source's
// memory does not grow with what else the objects carry, not even while it reads all of them. A change costs the join of
// the Services it touches; one of the node returns all of them again as they were joined.
//
// The sources differ in one thing. A directory may be without a Node, and is believed when its Node goes. In a cluster
// there is one for every machine that takes part, so a machine without is to get nothing new from load balancers, and
// goes on to be where its Node said it was.
//
// Package watcher does not decide what a Service means: which endpoints serve, what wins a conflict and what a packet
// meets is for package render. It writes nothing, neither to the kernel nor to the source.
package watcher
