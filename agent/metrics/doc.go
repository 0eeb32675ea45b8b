// Package metrics records the daemon's metrics for Prometheus: kube-proxy's metrics under their names, nfproxy's own, and
// those of requests to the API server, the Go runtime and the process. docs/metrics.md lists them.
//
// The daemon reports events to a Recorder; only the connection counters are read from the kernel, on each scrape. To tell
// changes of Services from changes of endpoints, the Recorder keeps a fingerprint of each Service.
package metrics
