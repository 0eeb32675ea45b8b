// Package zpages serves /statusz and /flagz, the z-pages of Kubernetes' components (KEP-4827, KEP-4828), with the status codes,
// content types and objects of kube-proxy 1.36.
//
//   - page decides from the Accept header whether a request gets text, an object, or an error (page.go, accept.go).
//   - Statusz is about the process: its version, its start, its other pages (statusz.go).
//   - Flagz has the values of the flags (flagz.go).
//
// kube-proxy has these pages from k8s.io/apiserver/pkg/server. In nfproxy that package would need 21 more modules, gRPC and CEL
// among them, make the binary 8.9 MB larger and take 4 MB of memory (v0.37.2, measured in November 2026). TestZPagesOfKubeProxy
// in integration/cluster compares the answers with those of the real kube-proxy.
package zpages
