package kernel

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// watch starts to watch a lab's tables.
func startMonitor(l *testNode) (w *kernel.Monitor) {
	l.t.Helper()
	err := l.node.Do(func() (err error) {
		w, err = l.kernel.Monitor(render.TableIDs()...)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { w.Close() })
	return w
}

// listen returns what is heard.
func receive(t *testing.T, w *kernel.Monitor) <-chan kernel.ExternalChange {
	c := make(chan kernel.ExternalChange)
	go func() {
		defer close(c)
		for {
			i, err := w.Next()
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
				return
			}
			c <- i
		}
	}()
	t.Cleanup(func() {
		w.Close()
		for range c {
		}
	})
	return c
}

// TestWatch: what others do to our tables is heard, with what and who; what we do, and what others do to theirs, is not.
func TestMonitor(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.reconcile()
	heard := receive(t, startMonitor(l))
	for i, c := range []struct{ command, want string }{
		{"delete element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 }", "delete element ip nfproxy endpoints, by nft (pid "},
		{"add rule ip6 nfproxy refuse drop", "add rule ip6 nfproxy refuse, by nft (pid "},
		{"add chain ip nfproxy foreign", "add chain ip nfproxy foreign, by nft (pid "},
		{"flush chain ip nfproxy lb-3", "delete rule ip nfproxy lb-3 and 2 more, by nft (pid "},
		{"add set ip nfproxy mine { type ipv4_addr; }", "add set ip nfproxy mine, by nft (pid "},
		{"flush ruleset", "delete "},
	} {
		l.apply(render.Update{Services: []render.Service{service("ours", nft.TCP, "10.96.1.1:80", []string{"10.244.1.2:80", "10.244.1.3:80"}[i%2])}})
		l.nft("table ip other { chain c { drop; }; }; delete table ip other\n", "-f", "-")
		l.nft(c.command+"\n", "-f", "-")
		select {
		case got := <-heard:
			if !strings.HasPrefix(got.String(), c.want) {
				t.Errorf("%s is heard as %q, not %q", c.command, got, c.want)
			}
		case <-time.After(connectTimeout):
			t.Fatalf("%s was not heard", c.command)
		}
	}
	select {
	case got := <-heard:
		t.Errorf("heard %q as well", got)
	default:
	}
}

// TestWatchTurnsAway: of a large batch of ours there is nothing to hear, nor of what others do to theirs meanwhile; what
// they do to ours is missed, and that is said.
func TestMonitorPause(t *testing.T) {
	l := newTestNode(t)
	heard := receive(t, startMonitor(l))
	var stranger *kernel.Conn
	if err := l.node.Do(func() (err error) { stranger, err = kernel.Open(); return err }); err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(2000)})
	l.reconcile()
	select {
	case got := <-heard:
		t.Errorf("after a load of ours: %s", got)
	case <-time.After(100 * time.Millisecond):
	}
	stop, stopped := make(chan bool), make(chan bool)
	go func() { // others commit all the time
		defer close(stopped)
		other := &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "other"}}
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := stranger.Apply([]nft.Change{{Op: nft.Add, Object: other}}, 0)
			if err == nil {
				err = stranger.Apply([]nft.Change{{Op: nft.Delete, Object: other}}, 0)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for deadline := time.Now().Add(connectTimeout); ; {
		l.apply(render.Update{Removed: names(cluster(2000))})
		l.apply(render.Update{Services: cluster(2000)})
		select {
		case got := <-heard:
			if !got.Missed {
				t.Errorf("heard %s", got)
			}
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing was missed")
		}
	}
}

func names(services []render.Service) []render.ServiceName {
	var all []render.ServiceName
	for _, s := range services {
		all = append(all, s.ServiceName)
	}
	return all
}

// TestWatchMissed: when there is more than can be read, that is said; and a first load of ours is not more.
func TestMonitorMissed(t *testing.T) {
	l := newTestNode(t)
	w := startMonitor(l)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(20_000)})
	l.reconcile() // nobody reads meanwhile
	var stranger *kernel.Conn
	if err := l.node.Do(func() (err error) { stranger, err = kernel.Open(); return err }); err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	l.nft("add rule ip nfproxy refuse drop\n", "-f", "-")
	if got, err := w.Next(); err != nil || got.Missed || !strings.HasPrefix(got.First, "add rule") {
		t.Errorf("after a load of ours: %v, %v", got, err)
	}
	if err := stranger.Apply(nft.Diff(l.tables(), nil), 0); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Apply(nft.Diff(nil, l.ruleset.Tables()), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Missed {
			return
		}
	}
	t.Error("nothing was missed")
}
