package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/integration/controlplane"
	"nfproxy/nft"
	"nfproxy/sandbox"
)

// Addresses of NodeLocal DNSCache: where it answers on every node, and the cluster IP at which it reaches the cluster's DNS.
const (
	nodeLocalIP     = "169.254.20.10"
	dnsUpstreamIP   = "10.96.0.11"
	nodeLocalDevice = "nodelocaldns"
)

// nodeLocal is a cluster with DNS on whose node NodeLocal DNSCache is started and stopped.
type nodeLocal struct {
	*Cluster
	node, client *sandbox.Namespace
	echo         string // the cluster IP of the Service that is looked up
}

// TestNodeLocalDNS: beside nfproxy, NodeLocal DNSCache answers at its own address and at the cluster IP of kube-dns, without
// connection tracking, and reaches the cluster's DNS through nfproxy. Without it nfproxy serves that cluster IP, at once. If it ends
// without removing its rules, DNS fails, and `nfproxy check` names them.
//
// The rules, the interface and the configuration are those of k8s.io/dns, cmd/node-cache; the program is the CoreDNS that it consists
// of otherwise. Instead of a dummy link, which not every kernel has, one end of a veth has the addresses.
func TestNodeLocalDNS(t *testing.T) {
	c := New(t)
	c.StartControllerManager()
	ports := []corev1.ServicePort{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53}}
	c.createService("kube-system", "kube-dns", dnsClusterIP, ports...)
	upstream := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns-upstream"},
		Spec: corev1.ServiceSpec{ClusterIP: dnsUpstreamIP, Selector: map[string]string{"app": "kube-dns"}, Ports: ports}}
	if _, err := c.CoreV1().Services("kube-system").Create(t.Context(), upstream, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	n := &nodeLocal{Cluster: c, node: c.Network.Node(), client: c.AddPod("default", "client", nil, "10.244.1.99").Namespace,
		echo: c.createService("default", "echo", "", corev1.ServicePort{Port: 80}).Spec.ClusterIP}
	agent := c.startAgent()
	EventuallyTrue(t, "the API server is an endpoint of its Service", c.DumpContains("default/kubernetes:https", "192.0.2.10:6443"))
	dns := c.AddPod("kube-system", "coredns", map[string]string{"app": "kube-dns"}, "10.244.1.53")
	c.StartCoreDNS(dns.Namespace, netip.MustParseAddr("10.244.1.53"))
	EventuallyTrue(t, "CoreDNS is an endpoint of both Services", c.DumpContains("kube-dns:dns-tcp", "kube-dns-upstream:dns-tcp", "10.244.1.53:53*"))
	n.wantAnswers(dnsClusterIP, false)

	for _, form := range []struct {
		name         string
		add, removes func(addrs ...string)
	}{{"iptables", n.addIptables, n.removeIptables}, {"nft", n.addNFT, n.removeNFT}} {
		t.Run("both addresses, "+form.name, func(t *testing.T) {
			n := n.in(t)
			open := n.openFlow()
			n.wantReply(open)
			n.addLink(dnsClusterIP, nodeLocalIP)
			stop := n.StartDNSCache(n.node, netip.MustParseAddr(dnsUpstreamIP), netip.MustParseAddr(dnsClusterIP), netip.MustParseAddr(nodeLocalIP))
			form.add(dnsClusterIP, nodeLocalIP)
			n.forgetFlows()
			n.wantAnswers(dnsClusterIP, true)
			n.wantAnswers(nodeLocalIP, true)
			n.wantReply(open) // the socket was used before the rules existed
			n.wantFlows(map[string]bool{dnsClusterIP: false, nodeLocalIP: false, dnsUpstreamIP: true})
			n.wantCheck("ok       untracked              packets to " + dnsClusterIP + ", " + nodeLocalIP + " are not tracked (")

			stop() // it ends without removing anything
			n.wantNoAnswer(dnsClusterIP)
			n.removeLink()
			n.wantNoAnswer(dnsClusterIP)
			n.wantCheck("warning  untracked              packets to " + dnsClusterIP + " are not tracked (")
			form.removes(dnsClusterIP, nodeLocalIP)
			n.wantAnswers(dnsClusterIP, false)
			n.wantReply(open)
			n.wantCheck("ok       untracked              no rule exempts packets from connection tracking")
		})
	}
	t.Run("its own address", func(t *testing.T) {
		n := n.in(t)
		n.addLink(nodeLocalIP)
		stop := n.StartDNSCache(n.node, netip.MustParseAddr(dnsClusterIP), netip.MustParseAddr(nodeLocalIP))
		n.addIptables(nodeLocalIP)
		n.forgetFlows()
		n.wantAnswers(nodeLocalIP, true)
		n.wantFlows(map[string]bool{nodeLocalIP: false, dnsClusterIP: true})
		n.wantAnswers(dnsClusterIP, false)
		stop()
		n.removeLink()
		n.removeIptables(nodeLocalIP)
	})
	if log := agent.Log.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		t.Errorf("nfproxy warns:\n%s", log)
	}
	agent.Stop()
}

// in returns the cluster for a subtest.
func (n *nodeLocal) in(t *testing.T) *nodeLocal {
	c := *n.Cluster
	c.T = t
	return &nodeLocal{Cluster: &c, node: n.node, client: n.client, echo: n.echo}
}

// run runs a program on the node.
func (n *nodeLocal) run(name string, args ...string) {
	n.T.Helper()
	if out, err := CombinedOutput(name, args...); err != nil {
		n.T.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (n *nodeLocal) addLink(addrs ...string) {
	n.T.Helper()
	n.run("ip", "link", "add", nodeLocalDevice, "type", "veth", "peer", "name", "nodelocal-far")
	n.T.Cleanup(func() { _ = exec.Command("ip", "link", "delete", nodeLocalDevice).Run() })
	for _, a := range addrs {
		n.run("ip", "addr", "add", a+"/32", "dev", nodeLocalDevice)
	}
}

func (n *nodeLocal) removeLink() {
	n.T.Helper()
	n.run("ip", "link", "delete", nodeLocalDevice)
}

// iptablesRules calls run for every rule of node-cache for some addresses, with the table and the chain first.
func iptablesRules(addrs []string, run func(table, chain string, rule ...string)) {
	for _, a := range addrs {
		for _, p := range []string{"tcp", "udp"} {
			run("raw", "PREROUTING", "-p", p, "-d", a, "--dport", "53", "-j", "NOTRACK")
			run("filter", "INPUT", "-p", p, "-d", a, "--dport", "53", "-j", "ACCEPT")
			run("raw", "OUTPUT", "-p", p, "-s", a, "--sport", "53", "-j", "NOTRACK")
			run("filter", "OUTPUT", "-p", p, "-s", a, "--sport", "53", "-j", "ACCEPT")
			run("raw", "OUTPUT", "-p", p, "-d", a, "--dport", "53", "-j", "NOTRACK")
		}
		run("raw", "OUTPUT", "-p", "tcp", "-d", a, "--dport", "8080", "-j", "NOTRACK")
		run("raw", "OUTPUT", "-p", "tcp", "-s", a, "--sport", "8080", "-j", "NOTRACK")
	}
}

func (n *nodeLocal) addIptables(addrs ...string) {
	n.T.Cleanup(func() {
		for _, table := range []string{"raw", "filter"} {
			_ = exec.Command("nft", "delete", "table", "ip", table).Run()
		}
	})
	iptablesRules(addrs, func(table, chain string, rule ...string) {
		n.run("iptables-nft", slices.Concat([]string{"-t", table, "-I", chain}, rule)...)
	})
}

func (n *nodeLocal) removeIptables(addrs ...string) {
	iptablesRules(addrs, func(table, chain string, rule ...string) {
		n.run("iptables-nft", slices.Concat([]string{"-t", table, "-D", chain}, rule)...)
	})
}

// addNFT adds the same rules in the words of nft, as a node without iptables may have them.
func (n *nodeLocal) addNFT(addrs ...string) {
	set := "{ " + strings.Join(addrs, ", ") + " }"
	n.T.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "ip", "node-local-dns").Run() })
	n.run("nft", fmt.Sprintf(`table ip node-local-dns {
		chain prerouting { type filter hook prerouting priority raw; ip daddr %[1]s meta l4proto { tcp, udp } th dport 53 notrack; }
		chain output {
			type filter hook output priority raw
			ip daddr %[1]s meta l4proto { tcp, udp } th dport { 53, 8080 } notrack
			ip saddr %[1]s meta l4proto { tcp, udp } th sport { 53, 8080 } notrack
		}
	}`, set))
}

func (n *nodeLocal) removeNFT(...string) { n.run("nft", "delete", "table", "ip", "node-local-dns") }

// lookup looks a name up at an address.
func lookup(ctx context.Context, from *sandbox.Namespace, network, at, name string) ([]netip.Addr, error) {
	return controlplane.Resolver(from, network, netip.AddrPortFrom(netip.MustParseAddr(at), 53)).LookupNetIP(ctx, "ip4", name)
}

// wantAnswers fails the test unless a Pod and the node get the cluster IP of echo from the DNS server at an address, over UDP and
// TCP, and that server is the cache or is not.
func (n *nodeLocal) wantAnswers(at string, cache bool) {
	n.T.Helper()
	for name, from := range map[string]*sandbox.Namespace{"Pod": n.client, "node": n.node} {
		for _, network := range []string{"udp", "tcp"} {
			ctx, cancel := context.WithTimeout(n.T.Context(), Timeout)
			defer cancel()
			addrs, err := lookup(ctx, from, network, at, "echo.default.svc.cluster.local.")
			if err != nil || len(addrs) != 1 || addrs[0].String() != n.echo {
				n.T.Errorf("%s, %s, %s: got %v, %v, want %s", name, network, at, addrs, err, n.echo)
			}
			_, err = lookup(ctx, from, network, at, controlplane.CacheName)
			var dns *net.DNSError
			if cache && err != nil || !cache && (!errors.As(err, &dns) || dns.IsTimeout) {
				n.T.Errorf("%s, %s, %s: the cache answers: want %t, got error %v", name, network, at, cache, err)
			}
		}
	}
}

// wantNoAnswer fails the test if a DNS server answers a Pod at an address.
func (n *nodeLocal) wantNoAnswer(at string) {
	n.T.Helper()
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithTimeout(n.T.Context(), time.Second)
		defer cancel()
		if addrs, err := lookup(ctx, n.client, network, at, "echo.default.svc.cluster.local."); err == nil {
			n.T.Errorf("%s, %s: got %v, want no answer", network, at, addrs)
		}
	}
}

// openFlow returns a UDP socket of the Pod that is connected to the cluster IP of kube-dns.
func (n *nodeLocal) openFlow() net.Conn {
	n.T.Helper()
	c, err := n.client.Dial(n.T.Context(), "udp", "", dnsClusterIP+":53")
	if err != nil {
		n.T.Fatal(err)
	}
	n.T.Cleanup(func() { c.Close() })
	return c
}

// wantReply fails the test unless a DNS server answers a query that is sent through an open socket.
func (n *nodeLocal) wantReply(c net.Conn) {
	n.T.Helper()
	resolver := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return unclosed{c}, nil }}
	ctx, cancel := context.WithTimeout(n.T.Context(), Timeout)
	defer cancel()
	addrs, err := resolver.LookupNetIP(ctx, "ip4", "echo.default.svc.cluster.local.")
	if err != nil || len(addrs) != 1 || addrs[0].String() != n.echo {
		n.T.Errorf("through the open socket: got %v, %v, want %s", addrs, err, n.echo)
	}
}

// unclosed is a connection that stays open. It is a net.PacketConn, by which package net recognises UDP.
type unclosed struct{ net.Conn }

func (unclosed) Close() error { return nil }

func (u unclosed) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := u.Read(b)
	return n, u.RemoteAddr(), err
}

func (u unclosed) WriteTo(b []byte, _ net.Addr) (int, error) { return u.Write(b) }

// flows calls each for every tracked connection to port 53 of an address.
func (n *nodeLocal) flows(to string, each func(*ctnetlink.Conn, conntrack.Flow)) {
	n.T.Helper()
	c, err := ctnetlink.Open()
	if err != nil {
		n.T.Fatal(err)
	}
	defer c.Close()
	for _, p := range []nft.Protocol{nft.UDP, nft.TCP} {
		filter := conntrack.Filter{Family: nft.IPv4, Protocol: p, Destination: netip.AddrPortFrom(netip.MustParseAddr(to), 53)}
		if err := c.List(filter, func(f conntrack.Flow) { each(c, f) }); err != nil {
			n.T.Fatal(err)
		}
	}
}

// forgetFlows deletes the entries of earlier connections to DNS servers.
func (n *nodeLocal) forgetFlows() {
	n.T.Helper()
	for _, to := range []string{dnsClusterIP, nodeLocalIP, dnsUpstreamIP} {
		n.flows(to, func(c *ctnetlink.Conn, f conntrack.Flow) {
			if err := c.Delete(f); err != nil {
				n.T.Error(err)
			}
		})
	}
}

// wantFlows fails the test unless there are tracked connections to exactly those addresses that are true, and all of them lead to
// CoreDNS.
func (n *nodeLocal) wantFlows(want map[string]bool) {
	n.T.Helper()
	for to, tracked := range want {
		count := 0
		n.flows(to, func(_ *ctnetlink.Conn, f conntrack.Flow) {
			count++
			if f.Reply.Source.String() != "10.244.1.53:53" {
				n.T.Errorf("%s leads to %s", f, f.Reply.Source)
			}
		})
		if (count > 0) != tracked {
			n.T.Errorf("%d tracked connections to %s", count, to)
		}
	}
}

// wantCheck fails the test unless nfproxy check prints a line that begins with a text.
func (n *nodeLocal) wantCheck(begin string) {
	n.T.Helper()
	out, err := Command(n.T, "check").Output()
	if err != nil || !strings.Contains(string(out), "\n"+begin) {
		n.T.Errorf("nfproxy check: %v; no line %q in\n%s", err, begin, out)
	}
}
