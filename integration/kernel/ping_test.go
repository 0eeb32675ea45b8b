package kernel

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/sandbox"
)

// pong is how a ping ends.
type pong string

const (
	replied     pong = "replied"
	unreachable pong = "port unreachable"
	expired     pong = "time exceeded"
	silent      pong = "silent"
)

// pingTimeout is how long a ping waits that nothing must answer.
const pingTimeout = 300 * time.Millisecond

// ping sends an ICMP echo request from a namespace and returns how it ends, as soon as it ends or, if the caller wants silence, after
// pingTimeout. A reply must come from the address itself and carry the data of the request.
func ping(ns *sandbox.Namespace, source string, to netip.Addr, want pong) (pong, error) {
	network, v4 := "ip6:ipv6-icmp", to.Is4()
	if v4 {
		network = "ip4:icmp"
	}
	var c net.PacketConn
	err := ns.Do(func() (err error) {
		c, err = net.ListenPacket(network, source)
		return err
	})
	if err != nil {
		return "", err
	}
	defer c.Close()
	request := echoRequest(v4)
	if _, err := c.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return "", err
	}
	timeout := connectTimeout
	if want == silent {
		timeout = pingTimeout
	}
	c.SetDeadline(time.Now().Add(timeout))
	buffer := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buffer)
		if isTimeout(err) {
			return silent, nil
		}
		if err != nil || n < 8 {
			return "", fmt.Errorf("read %d bytes: %w", n, err)
		}
		end := endOfPing(buffer[:n], v4)
		if end == "" || end == replied && string(buffer[4:6]) != string(request[4:6]) { // another message, such as the request on the loopback interface
			continue
		}
		if end == replied && (from.String() != to.String() || string(buffer[4:n]) != string(request[4:])) {
			return "", fmt.Errorf("%s replied with %x, want %s with %x", from, buffer[4:n], to, request[4:])
		}
		return end, nil
	}
}

// echoRequest returns an ICMP message with an identifier of its own: connection tracking takes requests with the same one for one flow.
// The kernel fills in the checksum of ICMPv6.
func echoRequest(v4 bool) []byte {
	id := connections.Add(1)
	m := append([]byte{128, 0, 0, 0, byte(id), byte(id >> 8), 0, 1}, "nfproxy!"...)
	if !v4 {
		return m
	}
	m[0] = 8
	sum := uint32(0)
	for i := 0; i < len(m); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(m[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(m[2:], ^uint16(sum+sum>>16))
	return m
}

// endOfPing returns what an ICMP message says about a ping, empty if it is about something else.
func endOfPing(m []byte, v4 bool) pong {
	type message struct {
		v4         bool
		kind, code byte
	}
	return map[message]pong{
		{true, 0, 0}: replied, {false, 129, 0}: replied,
		{true, 3, 3}: unreachable, {false, 1, 4}: unreachable,
		{true, 11, 0}: expired, {false, 3, 0}: expired,
	}[message{v4, m[0], m[1]}]
}

// pings pings an address from a pod, from outside and from the node, and checks Explain beside.
func (w *trafficNode) pings(t *testing.T, name string, want pong) {
	t.Helper()
	to := netip.MustParseAddr(w.addr(name))
	for _, from := range []string{"client", "outside", "node"} {
		source := ""
		if from != "node" {
			source = w.addr(from)
		}
		got, err := ping(w.from(from), source, to, want)
		if from == "node" && (want == unreachable || want == silent) && err != nil {
			got, err = want, nil // the system call fails
		}
		if got != want || err != nil {
			t.Errorf("%s: ping of %s from %s: %s, %v, want %s", w.family, name, from, got, err, want)
		}
		packet := w.packet(w.family.ICMP(), behaviour{from: from, to: name})
		e := report.Explain(w.tables(), report.Query{Packet: packet})
		if expect := map[pong]report.Outcome{replied: report.Answered, unreachable: report.Refused}[want]; expect != "" && (e.Outcome != expect || len(e.Why) == 0 || len(e.Problems) > 0) {
			t.Errorf("%s: ping of %s from %s is explained as %+v", w.family, name, from, e)
		}
	}
}

// TestAnswerPing: the addresses of Services with endpoints answer pings of Pods, of the node and of others; those without endpoints
// do not. An address follows the endpoints of its Services. Pings to endpoints and to the node, and errors of connections, are not
// affected.
func TestAnswerPing(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newExternalNode(t, f, passUnserved)
		w.pings(t, "web", unreachable) // as every packet to a port of a cluster IP that no Service has
		w.pings(t, "web-lb", silent)
		w.restart(func(n *render.Node) { n.AnswerPing = true })
		for _, name := range []string{"web", "web-external", "web-lb", "shared"} {
			w.pings(t, name, replied)
		}
		w.pings(t, "empty", unreachable)
		w.pings(t, "empty-external", silent)
		w.pings(t, "empty-lb", silent)
		for _, from := range []string{"client", "outside"} {
			for _, to := range []string{"a", "node"} {
				if got, err := ping(w.from(from), w.addr(from), netip.MustParseAddr(w.addr(to)), replied); got != replied || err != nil {
					t.Errorf("%s: ping of %s from %s: %s, %v", f, to, from, got, err)
				}
			}
		}

		services := w.externalServices()
		services[0].Ports[0].Endpoints = nil
		w.apply(render.Update{Services: services[:1]})
		w.pings(t, "web", unreachable)
		w.pings(t, "shared", silent)
		services[1].Ports[0].Endpoints = []render.Endpoint{endpoint(w.at("a", 8080))}
		w.apply(render.Update{Services: services[1:]})
		w.pings(t, "shared", replied)
		w.pings(t, "empty-lb", replied)
		w.pings(t, "web-lb", silent)
		w.apply(render.Update{Removed: []render.ServiceName{services[1].ServiceName}})
		w.pings(t, "shared", silent)
	}
}

// TestAnswerPingUnserved: with refuse, pings to external addresses without endpoints are refused and those with endpoints are still
// answered.
func TestAnswerPingUnserved(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newExternalNode(t, f, func(n *render.Node) { n.UnservedPorts, n.AnswerPing = render.RefuseUnserved, true })
		w.pings(t, "web-lb", replied)
		w.pings(t, "empty-lb", unreachable)
		w.restart(dropUnserved)
		w.pings(t, "web-lb", replied)
		w.pings(t, "empty-lb", silent)
	}
}
