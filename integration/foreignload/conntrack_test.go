package foreignload

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/conntrack/ctnetlink"
	"nfproxy/integration/cluster"
	"nfproxy/nlmsg"
)

// TestFullConntrack: while the node's table of connections is full, so that the kernel drops every new connection, open
// connections continue, nfproxy programs changes and repairs, and it deletes the entries of a removed endpoint. Thereby new
// connections become possible again.
//
// The limit, nf_conntrack_max, belongs to the machine, but each network namespace has a count of its own.
func TestFullConntrack(t *testing.T) {
	const stale = 5000
	n := newNode(t)
	entries := newEntries(t)
	echo := n.addPod("echo", "10.244.1.7")
	cluster.ServeTCP(t, echo.Namespace, "10.244.1.7:8080", func(c net.Conn) { _, _ = io.Copy(c, c) })
	n.write("echo.yaml", manifest("echo", "10.96.0.7:80", "10.244.1.7"))
	n.write("dns.yaml", dnsManifest("10.244.1.2", "10.244.1.3"))
	n.start()
	n.awaitServed("10.96.0.7:80")
	calm := n.awaitServed(steady)
	open, err := n.client.Dial(t.Context(), "tcp", "", "10.96.0.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	wantEcho(t, open)

	for i := range stale {
		entries.add(i, netip.MustParseAddrPort("10.96.0.53:53"), netip.MustParseAddrPort("10.244.1.3:53"))
	}
	for i := 0; !entries.full; i++ {
		entries.add(i, netip.MustParseAddrPort("198.51.100.1:9999"), netip.MustParseAddrPort("198.51.100.1:9999"))
	}
	count := entries.count()
	dropped, tried := 0, 5
	for range tried {
		if _, err := n.greet(200 * time.Millisecond); err != nil {
			dropped++
		}
	}
	if dropped < tried {
		t.Errorf("%d of %d connections were dropped although the table is full", dropped, tried)
	}
	wantEcho(t, open)

	n.write("more.yaml", manifest("more", "10.96.0.3:80", "10.244.1.2"))
	n.awaitServed("10.96.0.3:80")
	n.write("more.yaml", "")
	n.awaitText(calm)
	deleted := n.deleteElements(3)
	n.awaitText(calm)

	n.write("dns.yaml", dnsManifest("10.244.1.2"))
	cluster.EventuallyTrue(t, "the entries of the removed endpoint are deleted", func() (bool, string) {
		left := entries.count()
		return left <= count-stale, fmt.Sprintf("%d entries of %d", left, count)
	})
	connections := n.wantNoFailure(n.clients())
	wantEcho(t, open)
	t.Logf("%d entries; %d of %d connections dropped while the table was full; %d elements deleted, %d repairs; %d connections afterwards",
		count, dropped, tried, deleted, n.repairs(), connections)
	n.stop()
}

// dnsManifest returns a Service of UDP and its EndpointSlice.
func dnsManifest(endpoints ...string) string {
	text := "apiVersion: v1\nkind: Service\nmetadata: {name: dns}\nspec: {clusterIP: 10.96.0.53, ports: [{port: 53, protocol: UDP}]}\n---\n" +
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: dns, labels: {kubernetes.io/service-name: dns}}\naddressType: IPv4\n" +
		"ports: [{name: \"\", port: 53, protocol: UDP}]\nendpoints:\n"
	for _, e := range endpoints {
		text += fmt.Sprintf("- {addresses: [%s], nodeName: node-a}\n", e)
	}
	return text
}

// greet connects to the Service steady once.
func (n *loadedNode) greet(timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), timeout)
	defer cancel()
	return cluster.ReadGreeting(ctx, n.client.Namespace, steady)
}

// wantEcho fails the test unless a connection returns what is sent.
func wantEcho(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(cluster.Timeout))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("the open connection returns %q, %v", b, err)
	}
}

// entries adds entries to the node's table of connections.
type entries struct {
	t     *testing.T
	nl    *nlmsg.Socket
	flows *ctnetlink.Conn
	batch nlmsg.Message
	full  bool // the kernel has no room for another entry
}

// newEntries opens connections to the kernel and deletes all entries, now and at the end of the test.
func newEntries(t *testing.T) *entries {
	t.Helper()
	e := &entries{t: t}
	var err error
	if e.nl, err = nlmsg.Dial(); err != nil {
		t.Fatal(err)
	}
	if e.flows, err = ctnetlink.Open(); err != nil {
		t.Fatal(err)
	}
	e.deleteAll()
	t.Cleanup(func() {
		e.deleteAll()
		e.nl.Close()
		e.flows.Close()
	})
	return e
}

// deleteAll deletes all entries of the network namespace.
func (e *entries) deleteAll() {
	const ctDelete = 2 // without a tuple
	if err := e.nl.Exchange(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctDelete), unix.NLM_F_ACK, unix.AF_UNSPEC, nil, nil); err != nil {
		e.t.Error(err)
	}
}

// count returns the number of entries.
func (e *entries) count() int {
	e.t.Helper()
	n, err := e.flows.Count()
	if err != nil {
		e.t.Fatal(err)
	}
	return int(n)
}

// add adds the i-th UDP flow to a destination, which another address answers. The kernel gets the flows in large datagrams.
func (e *entries) add(i int, to, answers netip.AddrPort) {
	e.t.Helper()
	const (
		ctNew, limit, datagram = 0, 1_100_000, 60_000
		// Attributes of enum ctattr_type, ctattr_tuple, ctattr_ip and ctattr_l4proto (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
		original, reply, status, timeout, ip, proto = 1, 2, 3, 7, 1, 2
		assured                                     = 1<<1 | 1<<2 | 1<<3 // IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED: it is not dropped early
	)
	if i > limit {
		e.t.Fatalf("after %d entries the table is not full: net.netfilter.nf_conntrack_max is larger than this test expects", i)
	}
	from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 245, byte(i >> 16), byte(i >> 8)}), uint16(1024+i&0xff))
	m := &e.batch
	e.nl.Seq++
	m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctNew), unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL, e.nl.Seq, unix.AF_INET, 0)
	for _, tuple := range []struct {
		kind             uint16
		source, receiver netip.AddrPort
	}{{original, from, to}, {reply, answers, from}} {
		at := m.Nest(tuple.kind)
		addrs := m.Nest(ip)
		m.Bytes(1, tuple.source.Addr().AsSlice())
		m.Bytes(2, tuple.receiver.Addr().AsSlice())
		m.Unnest(addrs)
		ports := m.Nest(proto)
		m.Bytes(1, []byte{unix.IPPROTO_UDP})
		m.Uint16(2, tuple.source.Port())
		m.Uint16(3, tuple.receiver.Port())
		m.Unnest(ports)
		m.Unnest(at)
	}
	m.Uint32(status, assured)
	m.Uint32(timeout, 3600)
	m.End()
	if len(m.Buf) > datagram {
		e.send()
	}
}

// send sends the batch and notes whether the kernel had room for all of it.
func (e *entries) send() {
	e.t.Helper()
	if err := e.nl.Send(e.batch.Buf); err != nil {
		e.t.Fatal(err)
	}
	e.batch.Buf = e.batch.Buf[:0]
	for {
		b, err := e.nl.Receive(false)
		if err != nil {
			e.t.Fatal(err)
		}
		if b == nil {
			return
		}
		for h, body := range nlmsg.Messages(b) {
			if h.Type != unix.NLMSG_ERROR {
				continue
			}
			switch errno := unix.Errno(-int32(nlmsg.NativeUint32(body))); errno {
			case unix.ENOMEM:
				e.full = true
			default:
				e.t.Fatalf("add an entry: %v", errno)
			}
		}
	}
}
