// Package metrics counts what the daemon does, for Prometheus: kube-proxy's metrics under their names, nfproxy's own, those
// of the requests to the API server, of Go and of the process. docs/metrics.md lists them.
//
// It is told in plain values and asks nobody. What an update changes it finds out by itself, since an update has Services
// whole: it keeps a fingerprint of each.
package metrics
