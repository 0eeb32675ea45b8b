// Package localhost serves TCP node ports at loopback addresses, as kube-proxy 1.37 does (KEP-6032): listeners accept the
// connections, and each one is forwarded to an endpoint. The sysctl route_localnet, which would let other hosts of the link
// reach loopback addresses (CVE-2020-8558), stays off.
//
//   - Ports (ports.go) collects the node ports from updates and keeps their listeners open (package listeners).
//   - port (port.go) is one node port at one address: it accepts connections and chooses endpoints.
//   - connection (connection.go) is one accepted connection.
//
// Package render decides which node ports there are, and which endpoints they have.
package localhost
