package listeners

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/render"
)

// The addresses and services of these tests.
var (
	at4 = netip.MustParseAddrPort("127.0.0.1:30080")
	at6 = netip.MustParseAddrPort("[::1]:30080")
)

func service(name string) render.ServiceName { return render.ServiceName{Namespace: "ns1", Name: name} }

// greeter is a Server that greets each client and closes its connection.
type greeter struct{ closed func() }

func (g greeter) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprint(conn, "hello")
		conn.Close()
	}
}

func (g greeter) Close() error {
	g.closed()
	return nil
}

// setTest is a Set of greeters and what its hooks were told.
type setTest struct {
	*Set
	mu     sync.Mutex
	events []string
}

func newSetTest(t *testing.T) *setTest {
	t.Helper()
	s := &setTest{}
	s.Set = New(
		func(at netip.AddrPort) Server { return greeter{func() { s.note("closed %s", at) }} },
		Hooks{
			Failed: func(service render.ServiceName, at netip.AddrPort, err error, first bool) {
				if first {
					s.note("failed %s %s %v", service, at, errors.Unwrap(errors.Unwrap(err)))
				}
			},
			Bound: func(service render.ServiceName, at netip.AddrPort) { s.note("bound %s %s", service, at) },
			Ended: func(at netip.AddrPort, _ error) { s.note("ended %s", at) },
		})
	t.Cleanup(s.Close)
	return s
}

// patience is how long a test waits for an expected event.
const patience = 30 * time.Second

func (s *setTest) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, fmt.Sprintf(format, args...))
}

// want fails the test unless the hooks and Servers were told this since the last call, before it loses patience.
func (s *setTest) want(t *testing.T, events ...string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		s.mu.Lock()
		got := append([]string{}, s.events...)
		s.mu.Unlock()
		if len(got) >= len(events) || time.Now().After(deadline) {
			if diff := cmp.Diff(append([]string{}, events...), got); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
			s.mu.Lock()
			s.events = s.events[len(got):]
			s.mu.Unlock()
			return
		}
	}
}

// dial returns the error of a connection.
func dial(at netip.AddrPort) error {
	conn, err := net.DialTimeout("tcp", at.String(), patience)
	if err == nil {
		err = conn.Close()
	}
	return err
}

func wantListening(t *testing.T, listening bool, ats ...netip.AddrPort) {
	t.Helper()
	for _, at := range ats {
		if err := dial(at); listening && err != nil || !listening && !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, want it to listen: %v", at, err, listening)
		}
	}
}

// wants is the map of a Service that wants all of the addresses and ports.
func wants(s render.ServiceName, ats ...netip.AddrPort) map[netip.AddrPort]render.ServiceName {
	wanted := make(map[netip.AddrPort]render.ServiceName)
	for _, at := range ats {
		wanted[at] = s
	}
	return wanted
}

// TestKeep: the listeners are those of the last Keep; one that stays is not opened again.
func TestKeep(t *testing.T) {
	s := newSetTest(t)
	s.Keep(wants(service("a"), at4, at6))
	wantListening(t, true, at4, at6)
	if v4, v6 := s.Open(); v4 != 1 || v6 != 1 {
		t.Errorf("%d and %d listeners are open", v4, v6)
	}
	s.Keep(wants(service("b"), at6))
	wantListening(t, false, at4)
	wantListening(t, true, at6)
	s.want(t, "closed 127.0.0.1:30080")
	s.Close()
	wantListening(t, false, at4, at6)
	s.want(t, "closed [::1]:30080")
}

// TestTaken: a port that another process uses is bound when it is free, and the failure is reported once for each Service;
// other ports are not affected.
func TestTaken(t *testing.T) {
	s := newSetTest(t)
	other, err := net.Listen("tcp4", at4.String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s.Keep(wants(service("a"), at4, at6))
	s.Keep(wants(service("a"), at4, at6))
	wantListening(t, true, at6)
	s.want(t, "failed ns1/a 127.0.0.1:30080 address already in use")
	s.Keep(wants(service("b"), at4))
	s.want(t, "closed [::1]:30080", "failed ns1/b 127.0.0.1:30080 address already in use")
	other.Close()
	s.want(t, "bound ns1/b 127.0.0.1:30080")
	wantListening(t, true, at4)
}

// TestNoLongerWanted: a port that could not be bound is not retried after its Service is gone.
func TestNoLongerWanted(t *testing.T) {
	s := newSetTest(t)
	other, err := net.Listen("tcp4", at4.String())
	if err != nil {
		t.Fatal(err)
	}
	s.Keep(wants(service("a"), at4))
	s.want(t, "failed ns1/a 127.0.0.1:30080 address already in use")
	s.Keep(nil)
	other.Close()
	s.repair() // as the timer does
	wantListening(t, false, at4)
	s.want(t)
}

// TestServerEnds: a Server whose listener fails is replaced.
func TestServerEnds(t *testing.T) {
	s := newSetTest(t)
	s.Keep(wants(service("a"), at4))
	s.locked(func() { s.Set.running[at4].listener.(*net.TCPListener).SetDeadline(time.Unix(1, 0)) })
	s.want(t, "ended 127.0.0.1:30080", "closed 127.0.0.1:30080")
	wantListening(t, true, at4)
}

// locked calls f with the lock of the Set.
func (s *setTest) locked(f func()) {
	s.Set.mu.Lock()
	defer s.Set.mu.Unlock()
	f()
}
