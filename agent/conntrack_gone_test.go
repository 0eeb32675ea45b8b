package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// webService returns a Service with one TCP port and endpoints at port 8080.
func webService(endpoints ...string) render.Service {
	s := dnsService(endpoints...)
	s.Name, s.Ports[0].Protocol, s.Ports[0].Port = "web", nft.TCP, 80
	for i := range s.Ports[0].Endpoints {
		e := &s.Ports[0].Endpoints[i]
		e.AddrPort = netip.AddrPortFrom(e.Addr(), 8080)
	}
	return s
}

// echoPod adds a Pod that sends back the lines of one TCP connection.
func (s *cleanerTest) echoPod(addr string) {
	s.t.Helper()
	pod, err := s.network.AddPod(addr, netip.MustParseAddr(addr))
	if err != nil {
		s.t.Fatal(err)
	}
	listener, err := pod.Listen("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 8080).String())
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	s.t.Cleanup(func() { end(); listener.Close() })
	go func() {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		for lines := bufio.NewScanner(c); lines.Scan(); {
			fmt.Fprintln(c, lines.Text())
		}
	}()
}

// connection opens a connection to the Service of webService. echo sends a line and waits until it comes back.
func (s *cleanerTest) connection() (echo func() error) {
	s.t.Helper()
	pod, err := s.network.AddPod("client", netip.MustParseAddr("10.244.9.9"))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pod.Dial(ctx, "tcp", "", "10.96.0.10:80")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	echo = func() error { return exchangeLine(c) }
	if err := echo(); err != nil {
		s.t.Fatal(err)
	}
	return echo
}

func exchangeLine(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(c, "hello"); err != nil {
		return err
	}
	_, err := bufio.NewReader(c).ReadString('\n')
	return err
}

// listings returns the number of lists of connections to endpoints that are gone.
func (s *cleanerTest) listings() int {
	return len(s.log.Lines("looked for connections to endpoints that are gone"))
}

// TestCleanerResetsGone: the daemon deletes the entry of a connection whose endpoint has left the slices, one delay later, without
// any further change; counts it and logs it.
func TestCleanerResetsGone(t *testing.T) {
	var resets atomic.Int32
	const delay = 300 * time.Millisecond
	s := newCleanerTest(t, func(c *conntrackCleaner) {
		c.resetGoneEndpoints(delay, func(_ nft.Family, n int) { resets.Add(int32(n)) }, looseTCP)
	})
	s.echoPod("10.244.1.2")
	s.echoPod("10.244.1.3")
	s.round(webService("10.244.1.2"))
	echo := s.connection()
	s.round(webService("10.244.1.3"))
	s.eventually("the entry deleted", func() bool { return resets.Load() == 1 })
	if err := echo(); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the next line gets %v, want a reset", err)
	}
	if lines := s.log.Lines("deleted connections to endpoints that are gone"); len(lines) != 1 || !strings.Contains(lines[0], "connections=1") {
		t.Errorf("logged %q", lines)
	}
	if n := s.listings(); n != 1 {
		t.Errorf("%d lists, want 1", n)
	}
}

// TestCleanerListsOncePerDelay: however many endpoints go, flows are listed once per delay.
func TestCleanerListsOncePerDelay(t *testing.T) {
	const delay = time.Second
	s := newCleanerTest(t, func(c *conntrackCleaner) { c.resetGoneEndpoints(delay, func(nft.Family, int) {}, looseTCP) })
	start := time.Now()
	const changes = 50
	for i := range changes {
		s.round(webService("10.244.1.2", fmt.Sprintf("10.244.2.%d", i+1)))
	}
	s.round(webService())
	s.round(webService("10.244.1.2"))
	took := time.Since(start)
	s.eventually("all endpoints looked for", func() bool { _, more := s.cleaner.nextGone(); return !more })
	if n, most := s.listings(), 2+int(took/delay); n < 1 || n > most {
		t.Errorf("%d lists for %d endpoints that went within %s, want %d at most", n, changes, took, most)
	}
}

// TestCleanerNotLoose: while packets in the middle of a connection begin no entry, no entry is deleted, and the log says so.
func TestCleanerNotLoose(t *testing.T) {
	s := newCleanerTest(t, func(c *conntrackCleaner) {
		c.resetGoneEndpoints(100*time.Millisecond, func(nft.Family, int) {}, func() bool { return false })
	})
	s.echoPod("10.244.1.2")
	s.round(webService("10.244.1.2"))
	echo := s.connection()
	s.round(webService())
	s.eventually("a warning", func() bool { return len(s.log.Lines("nf_conntrack_tcp_loose is 0")) == 1 })
	if err := echo(); err != nil {
		t.Errorf("the connection does not work: %v", err)
	}
	if n := s.listings(); n != 0 {
		t.Errorf("%d lists, want none", n)
	}
}

// TestLooseTCP: looseTCP reports the sysctl of the network namespace of its thread.
func TestLooseTCP(t *testing.T) {
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for value, want := range map[string]bool{"0": false, "1": true} {
		err := ns.Do(func() error {
			if err := os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte(value), 0); err != nil {
				return err
			}
			if got := looseTCP(); got != want {
				t.Errorf("nf_conntrack_tcp_loose is %s: %v", value, got)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCleanerWarnsOfManyGone: endpoints for which there is no room are named in the log.
func TestCleanerWarnsOfManyGone(t *testing.T) {
	s := newCleanerTest(t, func(c *conntrackCleaner) { c.resetGoneEndpoints(time.Hour, func(nft.Family, int) {}, looseTCP) })
	many := webService()
	for i := range 1<<16 + 1 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		many.Ports[0].Endpoints = append(many.Ports[0].Endpoints, render.Endpoint{AddrPort: netip.AddrPortFrom(addr, 80)})
	}
	s.cleaner.Take(render.Update{Node: s.facts, Services: []render.Service{many}}, s.ruleset.Owner)
	s.cleaner.Take(render.Update{Node: s.facts, Services: []render.Service{webService()}}, s.ruleset.Owner)
	s.cleaner.Programmed(nil)
	s.eventually("a warning", func() bool { return len(s.log.Lines("too many endpoints are gone")) == 1 })
}

// TestCleanerWithoutDelay: by default the cleaner has no task for endpoints that are gone, and keeps nothing for it.
func TestCleanerWithoutDelay(t *testing.T) {
	s := newCleanerTest(t)
	s.round(webService("10.244.1.2"))
	s.round(webService())
	if n := len(s.cleaner.tasks()); n != 2 || s.cleaner.gone != nil {
		t.Errorf("%d tasks, want 2; endpoints %v", n, s.cleaner.gone)
	}
}
