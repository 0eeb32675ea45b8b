package killpoints

import (
	"flag"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
)

// phase is a part of the life of a daemon in which it is killed.
type phase struct {
	name  string
	flags []string // of the daemon
	// prepare brings the node to the state in which the daemon starts.
	prepare func()
	// begin begins the phase once the daemon is in sync; nil if the phase is the start itself.
	begin func()
	// want are the tables at the end of the phase.
	want string
	// unserved: there are no rules before the phase, so that no client can be served.
	unserved bool
}

// every is the distance between two kill points.
var every = flag.Int("killpoints.every", 12, "kill nfproxy at every so many sends; 1 takes about a quarter of an hour")

// TestKillPoints: nfproxy is killed, by SIGKILL and by SIGTERM, before the messages that it sends to the kernel while it
// starts, replaces tables, repairs them and executes itself again. After SIGTERM it ends without an error. The next start brings the
// tables to what they are after an undisturbed run, and no connection of a client fails at any time.
func TestKillPoints(t *testing.T) {
	n := newNode(t)
	old := n.program("--connection-counters", "none")
	oldListing := listing(t)
	want := n.program()
	listed := listing(t)
	n.configure("10.245.0.0/16")
	wantReconfigured := n.program()
	if old == want || want == wantReconfigured {
		t.Fatal("the phases have nothing to change")
	}
	load := func(listing string) { n.nft("delete table ip nfproxy\ndelete table ip6 nfproxy\n" + listing) }
	original := func() { n.configure("10.244.0.0/16") }
	original()
	for _, p := range []phase{
		{name: "first load", want: want, unserved: true, prepare: func() { n.nft("delete table ip nfproxy\ndelete table ip6 nfproxy\n") }},
		{name: "start over other rules", want: want, prepare: func() {
			load(listed)
			n.nft("delete element ip nfproxy endpoints { 10.96.0.2 . udp . 53 . 1 }\nadd rule ip6 nfproxy dispatch counter\n")
		}},
		{name: "replacement of tables", want: want, prepare: func() { load(strings.ReplaceAll(listed, "nfproxy schema", "nfproxy schema 0.")) }},
		{name: "replacement of sets", want: want, prepare: func() { load(oldListing) }},
		{name: "repair", want: want, prepare: func() { load(listed) }, begin: func() {
			n.nft("delete element ip nfproxy endpoints { 10.96.0.2 . udp . 53 . 1 }\nadd rule ip nfproxy dispatch counter\ndelete table ip6 nfproxy\n")
		}},
		{name: "execution for a changed configuration", want: wantReconfigured, prepare: func() { load(listed); original() },
			begin: func() { n.configure("10.245.0.0/16") }},
	} {
		t.Run(p.name, func(t *testing.T) {
			defer original()
			n.t = t
			n.killEverywhere(p)
		})
	}
}

// listing returns nfproxy's tables as nft lists them, without counters.
func listing(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, family := range []string{"ip", "ip6"} {
		out, err := exec.Command("nft", "-s", "list", "table", family, "nfproxy").Output()
		if err != nil {
			t.Fatal(err)
		}
		all.Write(out)
	}
	return all.String()
}

// killEverywhere kills the daemon at the sends of a phase, by both signals.
func (n *node) killEverywhere(p phase) {
	n.t.Helper()
	var client *connects
	if !p.unserved {
		client = n.connect()
	}
	sends := n.perform(p, 0, 0)
	killed := make(map[syscall.Signal]int)
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		points := 0
		for nth := 1 + int(signal)%*every; nth <= sends; nth += *every {
			points++
			if n.perform(p, nth, signal) == nth {
				killed[signal]++
			}
			if n.t.Failed() {
				n.t.Fatalf("%s at send %d of %d", signal, nth, sends)
			}
		}
		// The threads of a daemon do not send the same number of messages each time.
		if least := points * 4 / 5; killed[signal] < least || killed[signal] == 0 {
			n.t.Errorf("%s at %d of %d points", signal, killed[signal], points)
		}
	}
	if client == nil {
		n.t.Logf("%d sends; killed %d times, terminated %d times", sends, killed[syscall.SIGKILL], killed[syscall.SIGTERM])
		return
	}
	client.end(n.t)
	n.t.Logf("%d sends; killed %d times, terminated %d times; %d connections, %d failed", sends, killed[syscall.SIGKILL],
		killed[syscall.SIGTERM], client.made, client.failed)
}

// perform performs a phase until the daemon gets the signal before its nth send, or undisturbed for nth 0, and lets another daemon
// heal. It returns the number of sends.
func (n *node) perform(p phase, nth int, signal syscall.Signal) (sends int) {
	n.t.Helper()
	p.prepare()
	var signalled atomic.Bool
	strike := func(s *supervised, c call) {
		if c.number == unix.SYS_SENDTO && c.nth == nth {
			signalled.Store(true)
			s.Cmd.Process.Signal(signal)
		}
	}
	first := strike
	if p.begin != nil {
		first = nil
	}
	daemon := start(n.t, first, n.args(p.flags...)...)
	defer daemon.release()
	if p.begin != nil {
		daemon.AwaitLog("in sync")
		daemon.sent() // it rests
		daemon.count(strike)
		p.begin()
	}
	n.awaitEnd(daemon, &signalled, p.want)
	sends = daemon.sendsSoFar()
	if !signalled.Load() {
		daemon.count(nil)
		daemon.Stop()
		return sends
	}
	status := daemon.await(n.t).Sys().(syscall.WaitStatus)
	switch {
	case status.Signal() == signal, signal == syscall.SIGTERM && status.Exited() && status.ExitStatus() == 0:
	default:
		n.t.Errorf("after %s: %v\n%s", signal, daemon.Cmd.ProcessState, daemon.Log)
	}
	if healed := n.program(p.flags...); healed != p.want {
		n.t.Errorf("after the next start the tables are\n%s\nwant\n%s", healed, p.want)
	}
	if p.unserved {
		if err := n.dial(); err != nil {
			n.t.Errorf("after the next start: %v", err)
		}
	}
	return nth
}

// awaitEnd waits until the daemon has got the signal, or has reached the tables and sends no more.
func (n *node) awaitEnd(daemon *supervised, signalled *atomic.Bool, want string) {
	n.t.Helper()
	cluster.EventuallyTrue(n.t, "the daemon has the tables that it should have, or has got a signal", func() (bool, string) {
		return signalled.Load() || n.tables() == want, n.tables() + daemon.Log.String()
	})
	if !signalled.Load() {
		daemon.sent()
	}
}
