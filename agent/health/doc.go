// Package health serves the daemon's health over HTTP.
//
//   - Node is the health of the node's proxy: /healthz, /livez and /readyz (node.go, handlers.go).
//   - Servers are the HTTP servers at the healthz and the metrics address (servers.go).
//   - ServicePorts are the health check node ports of Services, which external load balancers probe (service.go, port.go).
//     Checks collects what they serve from updates (checks.go).
//
// Paths, status codes and bodies are kube-proxy's, except /readyz, which kube-proxy does not have.
package health
