package kernel

import (
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// TestSCTP: an INIT to the frontend arrives at the endpoint with a translated port and a correct checksum, and the INIT ACK
// comes back from the frontend. SCTP to a TCP frontend is refused. The test uses raw sockets, because a kernel need not have
// SCTP sockets. One that has them answers an INIT to a raw socket with an ABORT.
func TestSCTP(t *testing.T) {
	if _, err := os.Stat("/proc/net/sctp"); err == nil {
		t.Skip("needs a kernel without SCTP sockets or with module sctp not loaded; TestSCTPSockets tests this one")
	}
	l := newTestNode(t).addNetwork()
	server := rawSCTP(t, l.pod("server", 0, "10.244.1.2"), "10.244.1.2")
	client := rawSCTP(t, l.pod("client", 0, "10.244.9.9"), "10.244.9.9")
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{
		service("sctp", nft.SCTP, "10.96.0.1:38412", "10.244.1.2:9999"),
		service("tcp", nft.TCP, "10.96.0.2:38412", "10.244.1.2:9999")}})
	l.reconcile()

	sendSCTP(t, client, "10.96.0.1", initChunk(1, 40000, 38412, 0, 0x11111111))
	from, init := receiveSCTP(t, server)
	if from.String() != "10.244.9.9" || init.source != 40000 || init.destination != 9999 || init.tag != 0x11111111 {
		t.Fatalf("the endpoint received %+v from %s", init, from)
	}
	sendSCTP(t, server, from.String(), initChunk(2, 9999, init.source, init.tag, 0x22222222))
	from, ack := receiveSCTP(t, client)
	if from.String() != "10.96.0.1" || ack.source != 38412 || ack.destination != 40000 || ack.tag != 0x22222222 {
		t.Fatalf("the client received %+v from %s", ack, from)
	}

	// For SCTP, no Service has the port of the TCP Service.
	sendSCTP(t, client, "10.96.0.2", initChunk(1, 40001, 38412, 0, 3))
	if path := nft.Simulate(l.tables()[0], nft.Packet{Hook: nft.Prerouting, Protocol: nft.SCTP,
		Source:      netip.MustParseAddrPort("10.244.9.9:40001"),
		Destination: netip.MustParseAddrPort("10.96.0.2:38412")}); path.Outcome != nft.Unreachable {
		t.Errorf("Simulate returns %+v, want %s", path, nft.Unreachable)
	}
	server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, from, err := server.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("the server received a packet from %s", from)
	}
}

// rawSCTP opens a raw socket for SCTP at an address of a pod.
func rawSCTP(t *testing.T, p *sandbox.Pod, addr string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := p.Do(func() (err error) {
		c, err = net.ListenPacket("ip4:132", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// initChunk returns a packet with an INIT (kind 1) or INIT ACK (kind 2) chunk: RFC 9260 sections 3.1 and 3.3.2.
func initChunk(kind byte, source, destination uint16, verification, tag uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, source)
	b = binary.BigEndian.AppendUint16(b, destination)
	b = binary.BigEndian.AppendUint32(b, verification)
	b = append(b, 0, 0, 0, 0) // checksum
	b = append(b, kind, 0, 0, 20)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = binary.BigEndian.AppendUint32(b, 1<<16) // receiver window
	b = append(b, 0, 1, 0, 1)                   // streams
	b = binary.BigEndian.AppendUint32(b, 1)     // TSN
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func sendSCTP(t *testing.T, c net.PacketConn, to string, b []byte) {
	t.Helper()
	if _, err := c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
		t.Fatal(err)
	}
}

// sctpPacket has the fields of interest of a packet with an INIT or INIT ACK chunk.
type sctpPacket struct {
	source, destination uint16 // ports
	tag                 uint32 // initiate tag
}

// receiveSCTP waits for a packet, checks its checksum and returns the sender's address and the packet.
func receiveSCTP(t *testing.T, c net.PacketConn) (net.Addr, sctpPacket) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(connectTimeout))
	b := make([]byte, 100)
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	b = b[:n]
	sum := binary.LittleEndian.Uint32(b[8:])
	clear(b[8:12])
	if got := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)); got != sum {
		t.Errorf("checksum %#x, want %#x", sum, got)
	}
	return from, sctpPacket{binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint32(b[16:])}
}
