// Package compare measures nfproxy and kube-proxy on one real API server: `make bench-compare`. What it measures is in the file of each
// experiment; the results are a record (package record), of which the page docs/benchmarks/README.md is made (package page).
//
// The API server and etcd run in the network namespace of the tests. Each trial of a proxy has a node of its own, in a new namespace,
// which a link connects with that of the API server:
//
//	namespace of the tests           namespace of the node            namespaces of pods
//	192.0.2.10: the API server ----- 192.0.2.20: node-b, the proxy -- client, two backends
//
// The objects in the API are the same for all proxies. A proxy is started, changed, restarted and ended before the next one begins.
package compare
