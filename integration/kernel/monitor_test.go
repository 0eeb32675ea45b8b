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

// startMonitor starts a monitor of the node's tables.
func startMonitor(l *testNode) (m *kernel.Monitor) {
	l.t.Helper()
	err := l.node.Do(func() (err error) {
		m, err = l.kernel.Monitor(render.Instance{}.TableIDs()...)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { m.Close() })
	return m
}

// receive returns a channel with the external changes that a monitor reports.
func receive(t *testing.T, m *kernel.Monitor) <-chan kernel.ExternalChange {
	c := make(chan kernel.ExternalChange)
	go func() {
		defer close(c)
		for {
			change, err := m.Next()
			if err != nil {
				if !errors.Is(err, os.ErrClosed) {
					t.Error(err)
				}
				return
			}
			c <- change
		}
	}()
	t.Cleanup(func() {
		m.Close()
		for range c {
		}
	})
	return c
}

// TestMonitor: the monitor reports changes of nfproxy's tables by other programs, with the object and the program. It reports
// neither nfproxy's own changes nor those of other tables.
func TestMonitor(t *testing.T) {
	l := newTestNode(t)
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.reconcile()
	changes := receive(t, startMonitor(l))
	for i, c := range []struct{ command, want string }{
		{"delete element ip nfproxy endpoints { 10.96.0.1 . tcp . 80 . 0 }", "delete element ip nfproxy endpoints, by nft (pid "},
		{"add rule ip6 nfproxy refuse drop", "add rule ip6 nfproxy refuse, by nft (pid "},
		{"add chain ip nfproxy foreign", "add chain ip nfproxy foreign, by nft (pid "},
		{"flush chain ip nfproxy lb-4", "delete rule ip nfproxy lb-4 and 16 more, by nft (pid "},
		{"add set ip nfproxy mine { type ipv4_addr; }", "add set ip nfproxy mine, by nft (pid "},
		{"flush ruleset", "delete "},
	} {
		l.apply(render.Update{Services: []render.Service{service("ours", nft.TCP, "10.96.1.1:80", []string{"10.244.1.2:80", "10.244.1.3:80"}[i%2])}})
		l.nft("table ip other { chain c { drop; }; }; delete table ip other\n", "-f", "-")
		l.nft(c.command+"\n", "-f", "-")
		select {
		case got := <-changes:
			if !strings.HasPrefix(got.String(), c.want) {
				t.Errorf("%s is reported as %q, want %q", c.command, got, c.want)
			}
		case <-time.After(connectTimeout):
			t.Fatalf("%s is not reported within %v", c.command, connectTimeout)
		}
	}
	select {
	case got := <-changes:
		t.Errorf("also received %q", got)
	default:
	}
}

// TestMonitorPause: the monitor pauses during a large batch of nfproxy. It then reports nothing of the batch; if other programs
// commit meanwhile, it reports that changes may have been missed.
func TestMonitorPause(t *testing.T) {
	l := newTestNode(t)
	changes := receive(t, startMonitor(l))
	foreign := openKernel(t, l.node)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(2000)})
	l.reconcile()
	select {
	case got := <-changes:
		t.Errorf("after a batch of nfproxy the monitor reports %s", got)
	case <-time.After(100 * time.Millisecond):
	}
	stop, stopped := make(chan bool), make(chan bool)
	go func() { // another program commits all the time
		defer close(stopped)
		other := &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "other"}}
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := foreign.Apply([]nft.Change{{Op: nft.Add, Object: other}}, 0)
			if err == nil {
				err = foreign.Apply([]nft.Change{{Op: nft.Delete, Object: other}}, 0)
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
		case got := <-changes:
			if !got.Missed {
				t.Errorf("received %s, want a report of missed changes", got)
			}
			return
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the monitor does not report missed changes")
		}
	}
}

// names returns the names of Services.
func names(services []render.Service) []render.ServiceName {
	var all []render.ServiceName
	for _, s := range services {
		all = append(all, s.ServiceName)
	}
	return all
}

// TestMonitorMissed: the monitor reports when it lost notifications because they overflowed its buffer; a first load by nfproxy
// does not overflow it.
func TestMonitorMissed(t *testing.T) {
	l := newTestNode(t)
	m := startMonitor(l)
	l.ruleset.Update(render.Update{Node: l.facts, Services: cluster(20_000)})
	l.reconcile() // the test does not read notifications meanwhile
	foreign := openKernel(t, l.node)
	l.nft("add rule ip nfproxy refuse drop\n", "-f", "-")
	if got, err := m.Next(); err != nil || got.Missed || !strings.HasPrefix(got.First, "add rule") {
		t.Errorf("after a load by nfproxy: %v, %v, want the added rule", got, err)
	}
	if err := foreign.Apply(nft.Diff(l.tables(), nil), 0); err != nil {
		t.Fatal(err)
	}
	if err := foreign.Apply(nft.Diff(nil, l.ruleset.Tables()), 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got, err := m.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Missed {
			return
		}
	}
	t.Error("the monitor does not report missed changes")
}

// TestChangedSinceRead: commits of other programs count as a change until the next Read; the Conn's own commits do not.
func TestChangedSinceRead(t *testing.T) {
	l := newTestNode(t)
	c, foreign := l.kernel, openKernel(t, l.node)
	table := func(name string) []nft.Change {
		return []nft.Change{{Op: nft.Add, Object: &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: name}}}}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"Read", func() error { _, _, err := c.Read(); return err }, false},
		{"an own commit", func() error { return c.Apply(table("ours"), 0) }, false},
		{"Apply without changes", func() error { return c.Apply(nil, 0) }, false},
		{"another program's commit", func() error { return foreign.Apply(table("other"), 0) }, true},
		{"an own commit afterwards", func() error { return c.Apply(table("more"), 0) }, true},
		{"another Read", func() error { _, _, err := c.Read(); return err }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got, err := c.ChangedSinceRead(); err != nil || got != step.want {
			t.Errorf("after %s: %t, %v, want %t", step.name, got, err, step.want)
		}
	}
}
