package differential

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"nfproxy/sandbox"
)

// Outcomes of a probe that no server answers.
const (
	refused   = "refused"
	dropped   = "dropped"
	forbidden = "forbidden" // the call that sends fails with EPERM: a rule dropped or refused the packet in hook output
)

// fromWorld is how an answer from the world begins: its servers listen at all addresses.
const fromWorld = "untranslated"

// probe is one connection, or one datagram and its answer.
type probe struct {
	protocol corev1.Protocol
	source   netip.Addr // or the zero value
	target   netip.AddrPort
	client   bool   // with session affinity: it is remembered
	result   string // the server's answer, or an outcome

	fd      int
	local   netip.AddrPort // the source, as the target sees it before any translation
	port    uint16         // of an SCTP probe
	writing bool           // the TCP connection is not established yet
}

// send makes all probes at the same time, from one namespace, and waits for the results. A probe without a result within the
// timeout is dropped.
func send(ns *sandbox.Namespace, probes []*probe, timeout time.Duration) error {
	defer func() {
		for _, p := range probes {
			p.close()
		}
	}()
	if err := ns.Do(func() error {
		for _, p := range probes {
			if err := p.open(); err != nil {
				return fmt.Errorf("%s %s: %w", p.protocol, p.target, err)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	first := 20000 + rand.IntN(20000) // SCTP ports: each probe has its own
	for i, p := range probes {
		p.port = uint16(first + i)
		p.start()
	}
	return await(probes, timeout)
}

// await polls the sockets of the probes until all have a result.
func await(probes []*probe, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		var waiting []*probe
		var polled []unix.PollFd
		for _, p := range probes {
			if p.result != "" {
				continue
			}
			events := int16(unix.POLLIN)
			if p.writing {
				events = unix.POLLOUT
			}
			waiting = append(waiting, p)
			polled = append(polled, unix.PollFd{Fd: int32(p.fd), Events: events})
		}
		left := time.Until(deadline)
		if len(waiting) == 0 || left <= 0 {
			for _, p := range waiting {
				p.result = dropped
			}
			return nil
		}
		if _, err := unix.Poll(polled, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for i, p := range waiting {
			if polled[i].Revents != 0 {
				p.proceed()
			}
		}
	}
}

// open opens the probe's socket in the namespace of the calling thread.
func (p *probe) open() (err error) {
	kind, protocol := unix.SOCK_STREAM, 0
	switch p.protocol {
	case corev1.ProtocolUDP:
		kind = unix.SOCK_DGRAM
	case corev1.ProtocolSCTP:
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_SCTP
	}
	if p.fd, err = unix.Socket(familyOf(p.target.Addr()), kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol); err != nil {
		return err
	}
	if p.protocol == corev1.ProtocolTCP { // close resets the connection: no socket and no conntrack entry waits for its end
		if err := unix.SetsockoptLinger(p.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return err
		}
	}
	if p.protocol != corev1.ProtocolUDP {
		if err := p.queueErrors(); err != nil {
			return err
		}
	}
	if p.protocol == corev1.ProtocolSCTP { // it receives the answers to all probes
		if err := unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20); err != nil {
			return err
		}
	}
	if !p.source.IsValid() {
		return nil
	}
	if p.protocol != corev1.ProtocolSCTP { // the port is chosen by connect, with regard to the target
		if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
	}
	if p.source.Is6() { // the addresses of a pool are on no interface
		if err := unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
			return err
		}
	}
	return unix.Bind(p.fd, socketAddress(netip.AddrPortFrom(p.source, 0)))
}

// queueErrors makes the kernel queue ICMP errors with the packets that caused them. A TCP socket notices such an error only then:
// while it sends the SYN it is locked, and the error, which arrives at the same moment, has no effect (tcp_v6_err in
// net/ipv6/tcp_ipv6.c, Linux 6.18).
func (p *probe) queueErrors() error {
	if p.target.Addr().Is4() {
		return unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1)
	}
	return unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
}

// queuedError returns the next queued error and the packet that caused it, from its transport header on.
func (p *probe) queuedError() (packet []byte, err error) {
	packet, control := make([]byte, 200), make([]byte, 200)
	size, read, _, _, failed := unix.Recvmsg(p.fd, packet, control, unix.MSG_ERRQUEUE)
	if failed != nil || read < unix.CmsgLen(4) {
		return nil, nil
	}
	return packet[:size], unix.Errno(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):])) // ee_errno: ip(7)
}

// start connects the socket and sends the first packet.
func (p *probe) start() {
	target := p.target
	if p.protocol == corev1.ProtocolSCTP {
		target = netip.AddrPortFrom(target.Addr(), 0)
	}
	err := unix.Connect(p.fd, socketAddress(target))
	if local, failed := unix.Getsockname(p.fd); failed == nil {
		p.local = addrPort(local)
	}
	if p.protocol == corev1.ProtocolSCTP {
		p.local = netip.AddrPortFrom(p.local.Addr(), p.port)
	}
	switch {
	case errors.Is(err, unix.EINPROGRESS):
		p.writing = true
		return
	case err == nil && p.protocol == corev1.ProtocolTCP:
		return
	case err == nil:
		_, err = unix.Write(p.fd, p.packet())
	}
	if err != nil {
		p.result = outcome(err)
	}
}

// packet returns the packet of a UDP or SCTP probe.
func (p *probe) packet() []byte {
	if p.protocol == corev1.ProtocolUDP {
		return []byte("probe")
	}
	return sctpPacket{kind: initChunk, source: p.port, destination: p.target.Port(), tag: uint32(p.port)}.encode()
}

// proceed reads what the socket has.
func (p *probe) proceed() {
	if p.writing {
		if _, err := p.queuedError(); err != nil {
			p.result = outcome(err)
			return
		}
		p.writing = false
		code, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			p.result = outcome(err)
		}
		return
	}
	if p.protocol == corev1.ProtocolSCTP {
		p.readSCTP()
		return
	}
	buffer := make([]byte, 200)
	size, err := unix.Read(p.fd, buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
	case err != nil:
		p.result = outcome(err)
	case size == 0:
		p.result = "closed"
	default:
		p.result = string(buffer[:size])
	}
}

// readSCTP reads a packet and an error. Every raw socket of the namespace receives all packets from its target's address and all
// errors about packets to it; the probe looks for its own port.
func (p *probe) readSCTP() {
	if cause, err := p.queuedError(); err != nil && len(cause) >= 4 &&
		binary.BigEndian.Uint16(cause) == p.port && binary.BigEndian.Uint16(cause[2:]) == p.target.Port() {
		p.result = outcome(err)
	}
	buffer := make([]byte, 200)
	size, err := unix.Read(p.fd, buffer)
	if err != nil { // there is no packet, or the error that the queue has as well
		return
	}
	b := buffer[:size]
	if p.target.Addr().Is4() { // a raw IPv4 socket receives the IP header as well: raw(7)
		b = b[min(len(b), int(b[0]&0xf)*4):]
	}
	packet, ok := parseSCTP(b)
	if ok && packet.kind == initAckChunk && packet.destination == p.port && packet.source == p.target.Port() {
		p.result = packet.text
	}
}

func (p *probe) close() {
	if p.fd > 0 {
		unix.Close(p.fd)
		p.fd = 0
	}
}

// outcome returns the outcome for an error of the socket.
func outcome(err error) string {
	switch {
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, unix.EPERM):
		return forbidden
	}
	return err.Error()
}

// endpointOf returns the server's address in an answer, or the outcome.
func endpointOf(result string) string {
	at, _, _ := strings.Cut(result, " ")
	return at
}

// parseEndpoint returns the address of a server, the zero value for an outcome.
func parseEndpoint(text string) netip.AddrPort {
	at, _ := netip.ParseAddrPort(text)
	return at
}

func isOutcome(text string) bool { return text == refused || text == dropped || text == forbidden }

// summary describes the result in a form that does not depend on who the client is: the server's address, and the client's
// address as the server sees it unless the client is seen as itself.
func (p *probe) summary() string {
	at, client, ok := strings.Cut(p.result, " ")
	seen, err := netip.ParseAddr(client)
	if !ok || err != nil {
		return p.result
	}
	if server, err := netip.ParseAddrPort(at); err == nil && server.Addr().IsUnspecified() && server.Port() != listenerPort {
		at = fromWorld
	}
	if seen == p.source {
		return at
	}
	return at + " sees " + client
}

func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
