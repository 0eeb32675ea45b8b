package differential

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// serverPorts are the ports at which every endpoint serves TCP and UDP. It serves SCTP at all ports.
var serverPorts = []uint16{8080, 8081}

// servers answer every connection and datagram with two addresses: the one at which it arrived, and the client's as the server
// sees it.
type servers struct{ t *testing.T }

// start starts all servers of an endpoint at one address.
func (s *servers) start(ns *sandbox.Namespace, addr netip.Addr) {
	s.t.Helper()
	for _, port := range serverPorts {
		s.listen(ns, addr, port)
	}
	s.serveSCTP(ns, addr)
}

// listen starts a TCP and a UDP server.
func (s *servers) listen(ns *sandbox.Namespace, addr netip.Addr, port uint16) {
	s.t.Helper()
	version := "4"
	if addr.Is6() {
		version = "6"
	}
	at := netip.AddrPortFrom(addr, port).String()
	tcp, err := ns.Listen("tcp"+version, at)
	check(s.t, err)
	udp := s.listenPacket(ns, "udp"+version, at)
	s.t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, answer(at, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()))
			}()
		}
	}()
	go func() {
		for buffer := make([]byte, 100); ; {
			_, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			udp.WriteTo([]byte(answer(at, from.(*net.UDPAddr).AddrPort().Addr())), from)
		}
	}()
}

// listenPacket opens a socket with a buffer for all probes that are sent at the same time. If the buffer of a raw socket is full,
// the kernel even answers as if there were no socket (raw_v4_input in net/ipv4/raw.c, Linux 6.18).
func (s *servers) listenPacket(ns *sandbox.Namespace, network, at string) net.PacketConn {
	s.t.Helper()
	var conn net.PacketConn
	check(s.t, ns.Do(func() (err error) {
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) {
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1) // some addresses are on no interface
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
			})
		}}
		conn, err = config.ListenPacket(s.t.Context(), network, at)
		return err
	}))
	return conn
}

func answer(at string, client netip.Addr) string { return fmt.Sprintf("%s %s", at, client.Unmap()) }

// serveSCTP answers each INIT chunk with an INIT ACK chunk that carries the answer.
func (s *servers) serveSCTP(ns *sandbox.Namespace, addr netip.Addr) {
	s.t.Helper()
	network := "ip4:132"
	if addr.Is6() {
		network = "ip6:132"
	}
	conn := s.listenPacket(ns, network, addr.String())
	s.t.Cleanup(func() { conn.Close() })
	go func() {
		for buffer := make([]byte, 200); ; {
			size, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			packet, ok := parseSCTP(buffer[:size])
			if !ok || packet.kind != initChunk {
				continue
			}
			client, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
			reply := sctpPacket{kind: initAckChunk, source: packet.destination, destination: packet.source, verification: packet.tag, tag: packet.tag + 1,
				text: answer(netip.AddrPortFrom(addr, packet.destination).String(), client.Unmap())}
			conn.WriteTo(reply.encode(), from)
		}
	}()
}

// Kinds of chunks: RFC 9260, section 3.2.
const (
	initChunk    = 1
	initAckChunk = 2
)

// sctpPacket is an SCTP packet with one chunk, INIT or INIT ACK.
type sctpPacket struct {
	kind                byte
	source, destination uint16 // ports
	verification, tag   uint32
	text                string // in a parameter of the chunk
}

// textParameter is a parameter type that receivers skip if they do not know it: RFC 9260, section 3.2.1.
const textParameter = 0x8fff

// encode returns the packet: RFC 9260, sections 3.1 and 3.3.2.
func (p sctpPacket) encode() []byte {
	b := binary.BigEndian.AppendUint16(nil, p.source)
	b = binary.BigEndian.AppendUint16(b, p.destination)
	b = binary.BigEndian.AppendUint32(b, p.verification)
	b = append(b, 0, 0, 0, 0) // checksum
	b = append(b, p.kind, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(24+len(p.text)))
	b = binary.BigEndian.AppendUint32(b, p.tag)
	b = binary.BigEndian.AppendUint32(b, 1<<16) // receiver window
	b = append(b, 0, 1, 0, 1)                   // streams
	b = binary.BigEndian.AppendUint32(b, 1)     // TSN
	b = binary.BigEndian.AppendUint16(b, textParameter)
	b = binary.BigEndian.AppendUint16(b, uint16(4+len(p.text)))
	b = append(b, p.text...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// parseSCTP parses what encode returns.
func parseSCTP(b []byte) (p sctpPacket, ok bool) {
	const header, chunk = 12, 24
	if len(b) < header+chunk {
		return p, false
	}
	size := int(binary.BigEndian.Uint16(b[header+2:]))
	if size < chunk || len(b) < header+size {
		return p, false
	}
	return sctpPacket{kind: b[header], source: binary.BigEndian.Uint16(b), destination: binary.BigEndian.Uint16(b[2:]),
		verification: binary.BigEndian.Uint32(b[4:]), tag: binary.BigEndian.Uint32(b[header+4:]), text: string(b[header+chunk : header+size])}, true
}
