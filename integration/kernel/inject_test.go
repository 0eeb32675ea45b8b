package kernel

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft"
)

// injector puts packets into the prerouting hook of a node, each the first packet of a connection of its own. A tun device has
// no queue in this direction: when the write returns, the kernel has routed the packet and confirmed its conntrack entry. Packets
// leave by a second tun device, which nobody reads, and are dropped there.
type injector struct {
	t       testing.TB
	fd      int
	flows   *ctnetlink.Conn
	handle  *netlink.Handle
	packet  []byte
	counter uint32
}

// roundPackets is the number of packets of a round: few enough for a round to fit into the time slice of a busy machine.
const roundPackets = 2048

// The addresses of the injector: sources are Pods of the node, and the prefixes of endpoints are routed to the second device.
var injectedSources = netip.MustParsePrefix("10.244.0.0/18")

// addInjector adds the two devices to a node with a network. Addresses of the prefixes are reached by the second one.
func (l *testNode) addInjector(routed ...string) *injector {
	l.t.Helper()
	i := &injector{t: l.t}
	var sink int
	err := l.node.Do(func() (err error) {
		if i.fd, err = openTun("in0"); err != nil {
			return err
		}
		if sink, err = openTun("out0"); err != nil {
			return err
		}
		if i.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
			return err
		}
		i.flows, err = ctnetlink.Open()
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { i.flows.Close(); i.handle.Close(); unix.Close(i.fd); unix.Close(sink) })
	for name, to := range map[string][]string{"in0": {injectedSources.String()}, "out0": routed} {
		link, err := i.handle.LinkByName(name)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := i.handle.LinkSetUp(link); err != nil {
			l.t.Fatal(err)
		}
		for _, prefix := range to {
			dst, err := netlink.ParseIPNet(prefix)
			if err != nil {
				l.t.Fatal(err)
			}
			if err := i.handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}); err != nil {
				l.t.Fatalf("route %s: %v", prefix, err)
			}
		}
	}
	return i
}

// openTun creates a tun device in the calling thread's namespace. It exists as long as the descriptor is open.
func openTun(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// round sends a round of packets to destinations in turn and returns the processor time of one packet. It then checks that the
// kernel has tracked each packet as a connection of its own (none, if the packets are refused), and forgets them.
func (i *injector) round(p nft.Protocol, to []netip.AddrPort, tracked int) time.Duration {
	i.t.Helper()
	took := i.send(p, to, roundPackets)
	i.forget(tracked)
	return took
}

// send sends packets and returns the processor time of each.
func (i *injector) send(p nft.Protocol, to []netip.AddrPort, packets int) time.Duration {
	i.t.Helper()
	i.prepare(p)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime(i.t)
	for n := range packets {
		i.fill(p, to[n%len(to)])
		if _, err := unix.Write(i.fd, i.packet); err != nil {
			i.t.Fatal(err)
		}
	}
	return (threadTime(i.t) - start) / time.Duration(packets)
}

// forget checks the number of conntrack entries and deletes them.
func (i *injector) forget(tracked int) {
	i.t.Helper()
	n, err := i.flows.Count()
	if err != nil {
		i.t.Fatal(err)
	}
	if int(n) != tracked {
		i.t.Fatalf("the kernel tracks %d connections of the injector, want %d", n, tracked)
	}
	if err := i.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		i.t.Fatal(err)
	}
}

// threadTime returns the processor time of the calling thread. The kernel handles the packets of a tun device in it.
func threadTime(t testing.TB) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

const ipHeader = 20

// prepare makes the constant part of the packets: an IPv4 header and a UDP datagram of two bytes without a checksum, or a SYN.
func (i *injector) prepare(p nft.Protocol) {
	if len(i.packet) > 0 && i.packet[9] == uint8(p) {
		return
	}
	transport := []byte{0, 0, 0, 0, 0, 10, 0, 0, '?', '\n'}
	if p == nft.TCP {
		transport = make([]byte, 20)
		transport[12], transport[13], transport[14] = 5<<4, 0x02, 0x40
	}
	i.packet = append(make([]byte, ipHeader), transport...)
	i.packet[0], i.packet[8], i.packet[9] = 0x45, 64, uint8(p)
	binary.BigEndian.PutUint16(i.packet[2:], uint16(len(i.packet)))
}

// fill gives the packet a destination and a source that no packet of the round had.
func (i *injector) fill(p nft.Protocol, to netip.AddrPort) {
	i.counter++
	source, destination := injectedSources.Addr().As4(), to.Addr().As4()
	source[2], source[3] = 1+byte(i.counter>>4&0x1f), 1+byte(i.counter&0x7f)
	copy(i.packet[12:], source[:])
	copy(i.packet[16:], destination[:])
	binary.BigEndian.PutUint16(i.packet[ipHeader:], 10_000+uint16(i.counter%50_000))
	binary.BigEndian.PutUint16(i.packet[ipHeader+2:], to.Port())
	binary.BigEndian.PutUint16(i.packet[10:], 0)
	binary.BigEndian.PutUint16(i.packet[10:], checksum(0, i.packet[:ipHeader]))
	if p == nft.TCP {
		segment := i.packet[ipHeader:]
		binary.BigEndian.PutUint16(segment[16:], 0)
		pseudo := sum16(uint32(p)+uint32(len(segment)), i.packet[12:ipHeader])
		binary.BigEndian.PutUint16(segment[16:], checksum(pseudo, segment))
	}
}

// checksum returns the Internet checksum of bytes (RFC 1071), which are an even number.
func checksum(start uint32, b []byte) uint16 {
	sum := sum16(start, b)
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

func sum16(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	return sum
}

// samples are the nanoseconds per packet of rounds.
type samples []float64

func (s *samples) add(d time.Duration) { *s = append(*s, float64(d.Nanoseconds())) }

// quantile returns the value that a share q of the samples does not exceed.
func (s samples) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1)+0.5)]
}

func (s samples) median() float64 { return s.quantile(0.5) }
