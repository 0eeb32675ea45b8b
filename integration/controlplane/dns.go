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

// StartDNSCache starts a DNS server in ns with the configuration of NodeLocal DNSCache (cluster/addons/dns/nodelocaldns in the
// sources of Kubernetes): at each of addrs it answers from a cache, and it queries upstream over TCP. NodeLocal DNSCache is CoreDNS
// with further code for the interface and the rules of iptables, which are up to the caller. The server also knows CacheName, which
// no other server knows. StartDNSCache returns when the server answers at the last of addrs; at the others, packets can be translated
// until the caller's rules prevent it. The caller stops the server with the function that StartDNSCache returns.
func (c *ControlPlane) StartDNSCache(ns *sandbox.Namespace, upstream netip.Addr, addrs ...netip.Addr) (stop func()) {
	c.t.Helper()
	var bind []string
	for _, addr := range addrs {
		bind = append(bind, addr.String())
	}
	text := fmt.Appendf(nil, `cluster.local:%[1]d {
	errors
	cache {
		success 9984 30
		denial 9984 5
	}
	loop
	bind %[2]s
	forward . %[3]s {
		force_tcp
	}
}
%[4]s:%[1]d {
	bind %[2]s
	template IN A {
		answer "{{ .Name }} 0 IN A 127.0.0.77"
	}
}
`, dnsPort, strings.Join(bind, " "), upstream, CacheName)
	server := startProcess(c.t, ns, c.dir, "coredns", "-conf", c.write(fmt.Sprintf("Corefile-cache-%s", strings.Join(bind, "-")), text))
	resolver := Resolver(ns, "udp", netip.AddrPortFrom(addrs[len(addrs)-1], dnsPort))
	server.await(c.t, func(ctx context.Context) error {
		_, err := resolver.LookupNetIP(ctx, "ip4", CacheName)
		return err
	})
	return func() { server.stop(c.t) }
}

// CacheName is the name that only the servers of StartDNSCache resolve.
const CacheName = "cache.test."

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
