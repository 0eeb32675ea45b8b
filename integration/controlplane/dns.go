//go:build linux

package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"nfproxy/sandbox"
)

// dnsPort is the port of DNS servers.
const dnsPort = 53

// StartCoreDNS starts a DNS server for cluster.local in ns, over UDP and TCP at
// the addresses addrs of ns, and returns when it answers at each of them. If ns
// is not the control plane's namespace, CoreDNS reaches the API server at the
// first address given to Start.
func (c *ControlPlane) StartCoreDNS(ns *sandbox.Namespace, addrs ...netip.Addr) {
	c.t.Helper()
	config := c.AdminConfig()
	if ns != c.ns {
		if len(c.addrs) == 0 {
			c.t.Fatal("start coredns: the API server has no address for other namespaces")
		}
		config.Host = URL(c.addrs[0])
	}
	corefile := c.write(fmt.Sprintf("Corefile-%s", addrs[0]), corefile(c.Kubeconfig(config), addrs))
	server := startProcess(c.t, ns, c.dir, "coredns", "-conf", corefile)
	for _, addr := range addrs {
		resolver := Resolver(ns, "udp", netip.AddrPortFrom(addr, dnsPort))
		server.await(c.t, func(ctx context.Context) error {
			_, err := resolver.LookupNetIP(ctx, "ip4", "kubernetes.default.svc.cluster.local.")
			return err
		})
	}
}

// corefile returns CoreDNS's configuration. It disables caches, so that a test sees the current state.
func corefile(kubeconfig string, addrs []netip.Addr) []byte {
	var bind []string
	for _, addr := range addrs {
		bind = append(bind, addr.String())
	}
	return fmt.Appendf(nil, `.:%d {
	bind %s
	errors
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		kubeconfig %s
		startup_timeout 60s
		ttl 0
	}
}
`, dnsPort, strings.Join(bind, " "), kubeconfig)
}

// Resolver returns a resolver that queries only server, from a namespace, over
// network "udp" or "tcp". Names must be absolute, with a dot at the end.
func Resolver(from *sandbox.Namespace, network string, server netip.AddrPort) *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return from.Dial(ctx, network, "", server.String())
		},
	}
}
