package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"nfproxy/agent"
	"nfproxy/nft"
	"nfproxy/render"
)

// TestGuard: while others have flushed the ruleset, open connections go on in both directions, and when the guard ends
// nothing is left of it. Without it the next answer ends the connection.
func TestGuard(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		t.Run(f.String(), func(t *testing.T) { testGuard(t, f) })
	}
}

func testGuard(t *testing.T, f nft.Family) {
	l := newTestNode(t).addNetwork()
	addr, from, vip := "10.244.1.2", "10.244.9.9", "10.96.0.1:80"
	if f == nft.IPv6 {
		addr, from, vip = "fd00:10:244:1::2", "fd00:10:244:9::9", "[fd00:10:96::1]:80"
	}
	server, client := l.pod("server", 0, addr), l.pod("client", 0, from)
	listener, err := server.Listen("tcp", net.JoinHostPort(addr, "8080"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go echo(listener)
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, vip, net.JoinHostPort(addr, "8080"))}})
	l.reconcile()

	talk := func(guarded bool) error {
		conn, err := client.Dial(context.Background(), "tcp", "", vip)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		say := func() error { return exchange(conn) }
		if err := say(); err != nil {
			t.Fatal(err)
		}
		if guarded {
			var g *agent.Guard
			if err := l.node.Do(func() (err error) { g, err = agent.OpenGuard(nft.IPv4, nft.IPv6); return err }); err != nil {
				t.Fatal(err)
			}
			defer g.Close()
		}
		l.nft("flush ruleset\n", "-f", "-")
		if listing := l.nft("", "list", "ruleset"); strings.Contains(listing, agent.GuardPrefix) != guarded {
			t.Errorf("after a flush there is\n%s", listing)
		}
		err = say()
		l.reconcile()
		return err
	}
	if err := talk(true); err != nil {
		t.Errorf("guarded, an open connection ends by %v", err)
	}
	if listing := l.nft("", "list", "ruleset"); strings.Contains(listing, agent.GuardPrefix) {
		t.Errorf("the guard is left behind:\n%s", listing)
	}
	if err := talk(false); err == nil {
		t.Error("nothing to guard: this test shows nothing")
	}
}

// echo sends back every line.
func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				fmt.Fprintln(conn, lines.Text())
			}
		}()
	}
}

// exchange sends a line and waits for it to come back.
func exchange(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(connectTimeout))
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	_, err := bufio.NewReader(conn).ReadString('\n')
	return err
}
