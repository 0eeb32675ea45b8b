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
// leave by a second tun device, and are dropped there because no program reads it.
type injector struct {
	t       testing.TB // fails if a method fails
	fd      int
	flows   *ctnetlink.Conn
	handle  *netlink.Handle
	packet  []byte
	counter uint32
	other   []byte // memory that a cold round uses
}

// roundPackets is the number of packets of a round: few enough for a round to fit into the time slice of a busy machine.
const roundPackets = 2048

// The sources of the packets, 2^12 addresses of Pods or outside the cluster. The node reaches them by the first device.
var (
	podSources     = netip.MustParsePrefix("10.244.16.0/20")
	outsideSources = netip.MustParsePrefix("198.18.16.0/20")
)

// stream describes packets: to destinations in turn.
type stream struct {
	protocol  nft.Protocol
	from      netip.Prefix
	to        []netip.AddrPort
	untracked bool // the packets are refused, or the node does not track connections
}

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
	for name, to := range map[string][]string{"in0": {podSources.String(), outsideSources.String()}, "out0": routed} {
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

// round sends a round of packets and returns the processor time of one. It then checks that the kernel tracks each packet as a
// connection of its own, or none if they are untracked, and makes it forget them.
func (i *injector) round(s stream) time.Duration {
	i.t.Helper()
	i.prepare(s.protocol)
	took := i.send(s)
	tracked := uint32(roundPackets)
	if s.untracked {
		tracked = 0
	}
	if n, err := i.flows.Count(); err != nil || n != tracked {
		i.t.Fatalf("the kernel tracks %d connections of the injector, want %d (%v)", n, tracked, err)
	}
	if err := i.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		i.t.Fatal(err)
	}
	return took
}

// send sends a round of packets and returns the processor time of each.
func (i *injector) send(s stream) time.Duration {
	i.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime(i.t)
	for n := range roundPackets {
		i.fill(s, s.to[n%len(s.to)])
		if _, err := unix.Write(i.fd, i.packet); err != nil {
			i.t.Fatal(err)
		}
	}
	return (threadTime(i.t) - start) / roundPackets
}

// otherMemory is more than the nearest caches of a processor hold, and coldPackets the number of packets of a cold round.
const (
	otherMemory = 4 << 20
	coldPackets = 64
)

// coldRound sends packets between which the processor reads and writes other memory, as it does between the connections of a busy
// node, and returns the median time of one.
func (i *injector) coldRound(s stream) time.Duration {
	i.t.Helper()
	i.prepare(s.protocol)
	if i.other == nil {
		i.other = make([]byte, otherMemory)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var times samples
	for n := range coldPackets {
		i.fill(s, s.to[n*len(s.to)/coldPackets])
		for at := 0; at < len(i.other); at += 64 { // a cache line
			i.other[at]++
		}
		start := time.Now()
		if _, err := unix.Write(i.fd, i.packet); err != nil {
			i.t.Fatal(err)
		}
		times.add(time.Since(start))
	}
	if err := i.handle.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		i.t.Fatal(err)
	}
	return time.Duration(times.median())
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
func (i *injector) fill(s stream, to netip.AddrPort) {
	i.counter++
	source, destination := s.from.Addr().As4(), to.Addr().As4()
	source[2] |= byte(i.counter >> 8 & 0xf)
	source[3] = byte(i.counter)
	copy(i.packet[12:], source[:])
	copy(i.packet[16:], destination[:])
	binary.BigEndian.PutUint16(i.packet[ipHeader:], 10_000+uint16(i.counter%50_000))
	binary.BigEndian.PutUint16(i.packet[ipHeader+2:], to.Port())
	binary.BigEndian.PutUint16(i.packet[10:], 0)
	binary.BigEndian.PutUint16(i.packet[10:], checksum(0, i.packet[:ipHeader]))
	if s.protocol == nft.TCP {
		segment := i.packet[ipHeader:]
		binary.BigEndian.PutUint16(segment[16:], 0)
		pseudo := sum16(uint32(s.protocol)+uint32(len(segment)), i.packet[12:ipHeader])
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
