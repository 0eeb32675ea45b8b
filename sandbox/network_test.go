//go:build linux

package sandbox_test

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"nfproxy/sandbox"
)

// TestTraffic: pods and the node reach each other, and themselves, with their
// own source addresses.
func TestTraffic(t *testing.T) {
	w := network(t, nodeAddrs...)
	client := pod(t, w, "client", clientAddrs...)
	server := pod(t, w, "server", serverAddrs...)
	for _, network := range []string{"tcp", "udp"} {
		for i, addr := range server.Addrs {
			mustAsk(t, client.Namespace, server.Namespace, network, "", addr, client.Addrs[i])
			mustAsk(t, w.Node(), server.Namespace, network, "", addr, nodeAddrs[i])
			mustAsk(t, client.Namespace, w.Node(), network, "", nodeAddrs[i], client.Addrs[i])
			mustAsk(t, client.Namespace, client.Namespace, network, "", client.Addrs[i], client.Addrs[i])
		}
	}
}

// TestReady: the first packet between two new pods is not lost.
func TestReady(t *testing.T) {
	w := network(t, nodeAddrs...)
	for round := range 20 {
		client := pod(t, w, "client", clientAddrs...)
		server := pod(t, w, "server", serverAddrs...)
		for i := range server.Addrs {
			i = (i + round) % len(server.Addrs)
			mustAsk(t, client.Namespace, server.Namespace, "udp", "", server.Addrs[i], client.Addrs[i])
		}
		for _, p := range []*sandbox.Pod{client, server} {
			if err := w.RemovePod(p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSingleFamily: a network with one address family works.
func TestSingleFamily(t *testing.T) {
	for i, name := range []string{"IPv4", "IPv6"} {
		t.Run(name, func(t *testing.T) {
			w := network(t, nodeAddrs[i])
			client := pod(t, w, "client", clientAddrs[i])
			server := pod(t, w, "server", serverAddrs[i])
			mustAsk(t, client.Namespace, server.Namespace, "tcp", "", serverAddrs[i], clientAddrs[i])
			mustAsk(t, w.Node(), server.Namespace, "udp", "", serverAddrs[i], nodeAddrs[i])
		})
	}
}

// TestNodeToNowhere: the node routes packets to an address that does not exist.
func TestNodeToNowhere(t *testing.T) {
	w := network(t, nodeAddrs...)
	for i, vip := range []string{"10.96.0.1:80", "[fd00:96::1]:80"} {
		conn, err := w.Node().Dial(t.Context(), "udp", "", vip)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("lost")); err != nil {
			t.Error(err)
		}
		if got := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); got != nodeAddrs[i] {
			t.Errorf("to %s: source %s, want %s", vip, got, nodeAddrs[i])
		}
	}
}

// TestManyAddresses: a pod can have a thousand addresses, and all of them work.
func TestManyAddresses(t *testing.T) {
	const count = 1000
	var many []netip.Addr
	for _, addr := range addrs("10.1.0.1", "fd00:10:1::1") {
		for range count / 2 {
			many = append(many, addr)
			addr = addr.Next()
		}
	}
	w := network(t, nodeAddrs...)
	server := pod(t, w, "server", serverAddrs...)
	start := time.Now()
	client := pod(t, w, "client", many...)
	if took := time.Since(start); took > 30*time.Second { // duplicate address detection would take a second for each
		t.Errorf("a pod with %d addresses took %v", count, took)
	}
	for i := 0; i < count; i += 9 {
		to := server.Addrs[i/(count/2)]
		mustAsk(t, client.Namespace, server.Namespace, "udp", netip.AddrPortFrom(many[i], 0).String(), to, many[i])
	}
	last := many[count-1]
	mustAsk(t, w.Node(), client.Namespace, "tcp", "", last, nodeAddrs[1])
}

// TestForwarding: the node forwards packets and the pods do not.
func TestForwarding(t *testing.T) {
	w := network(t, nodeAddrs...)
	p := pod(t, w, "pod", clientAddrs...)
	for _, c := range []struct {
		n          *sandbox.Namespace
		name, want string
	}{
		{w.Node(), "ipv4/ip_forward", "1"},
		{w.Node(), "ipv4/conf/pod1/forwarding", "1"},
		{w.Node(), "ipv4/conf/pod1/rp_filter", "0"},
		{w.Node(), "ipv6/conf/all/forwarding", "1"},
		{w.Node(), "ipv6/conf/pod1/forwarding", "1"},
		{w.Node(), "ipv6/conf/pod1/accept_dad", "0"},
		{p.Namespace, "ipv4/conf/eth0/forwarding", "0"},
		{p.Namespace, "ipv4/conf/eth0/rp_filter", "0"},
		{p.Namespace, "ipv6/conf/eth0/accept_dad", "0"},
	} {
		if got := read(t, c.n, "/proc/sys/net/"+c.name); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
}

// TestParallelNetworks: networks can be created and used concurrently.
func TestParallelNetworks(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			w := network(t, nodeAddrs...)
			client := pod(t, w, "client", clientAddrs...)
			server := pod(t, w, "server", serverAddrs...)
			for i, addr := range server.Addrs {
				if seen, err := ask(client.Namespace, server.Namespace, "tcp", "", addr); err != nil || seen.Addr() != clientAddrs[i] {
					t.Errorf("tcp to %s: seen as %v, %v", addr, seen, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestErrors: invalid calls return errors that name the object, and leave no
// links behind.
func TestErrors(t *testing.T) {
	w := network(t, nodeAddrs...)
	p := pod(t, w, "pod", clientAddrs...)
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"no address", second(w.AddPod("x")), "add pod x: no address"},
		{"loopback", second(w.AddPod("x", addrs("127.0.0.1")...)), "add pod x: address 127.0.0.1: not a global unicast address"},
		{"address taken", second(w.AddPod("x", clientAddrs...)), "add pod x: add route 10.0.1.79/32 dev pod2: file exists"},
		{"second network", second(sandbox.NewNetwork(w.Node())), "make network: add link uplink0: file exists"},
		{"other network's pod", network(t).RemovePod(p), "remove pod pod: not in this network"},
		{"name", second(p.Dial(t.Context(), "tcp", "", "localhost:80")), `dial tcp localhost:80: ParseAddr("localhost"): unable to parse IP`},
		{"goexit", goexit(p.Namespace), "the function ended its goroutine"},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("%s: got error %v, want %s", c.name, c.err, c.want)
		}
	}
	if links := linkNames(t, w.Node()); !slices.Equal(links, []string{"lo", "pod1", "uplink0"}) {
		t.Errorf("links after errors: %v", links)
	}
}
