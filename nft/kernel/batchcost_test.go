package kernel

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// TestBatchCost: a replaced endpoint is a batch of four messages, in a buffer that is used again. The numbers do not depend on the
// machine: a change of them is a change of what every update of an endpoint costs.
func TestBatchCost(t *testing.T) {
	const messages, bytes, allocations = 4, 216, 3
	endpoints := &nft.Set{Table: nft.TableID{Family: nft.IPv4, Name: "nfproxy"}, Name: "endpoints",
		Key: []nft.Type{nft.IPv4Addr, nft.InetProto, nft.InetService, nft.SlotNumber}, Data: []nft.Type{nft.IPv4Addr, nft.InetService}}
	addr := nft.Addr(netip.MustParseAddr("10.0.0.1"))
	changes := []nft.Change{{Op: nft.Replace, Object: nft.Elements{Set: endpoints, List: []nft.Element{
		{Key: addr + nft.Proto(nft.TCP) + nft.Port(80) + nft.Slot(3), Data: addr + nft.Port(8080)}}}}}
	c := &Conn{nl: &nlmsg.Socket{}}
	var sent []byte
	encode := func() {
		b := c.newBatch(changes, 0)
		for i, ch := range changes {
			if err := b.change(i, ch); err != nil {
				t.Fatal(err)
			}
		}
		b.requestAnswer()
		b.boundary(unix.NFNL_MSG_BATCH_END, 0)
		c.spare, sent = b.Buf, b.Buf
	}
	got := testing.AllocsPerRun(100, encode)
	count := 0
	for range nlmsg.Messages(sent) {
		count++
	}
	if count != messages || len(sent) != bytes || got != allocations {
		t.Errorf("%d messages of %d bytes by %.0f allocations; want %d, %d, %d", count, len(sent), got, messages, bytes, allocations)
	}
}
