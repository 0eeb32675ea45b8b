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

// TestGuard: with the guard, open connections continue in both directions after another program has flushed the ruleset, and
// the end of the guard removes its tables. Without the guard the next answer ends the connection.
func TestGuard(t *testing.T) {
	requireLinux(t, 5, 12, "tables that have owners")
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
	l.serveEcho(server, net.JoinHostPort(addr, "8080"))
	l.ruleset.Update(render.Update{Node: l.facts, Services: []render.Service{service("s", nft.TCP, vip, net.JoinHostPort(addr, "8080"))}})
	l.reconcile()

	exchangeAcrossFlush := func(guarded bool) error {
		conn, err := client.Dial(context.Background(), "tcp", "", vip)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := exchange(conn, connectTimeout); err != nil {
			t.Fatal(err)
		}
		timeout := 2 * time.Second // after which an answer that does not come is missed
		if guarded {
			timeout = connectTimeout
			var g agent.Guard
			defer g.Close()
			if err := l.node.Do(func() error { return g.Claim(nft.IPv4, nft.IPv6) }); err != nil {
				t.Fatal(err)
			}
		}
		l.nft("flush ruleset\n", "-f", "-")
		if listing := l.nft("", "list", "ruleset"); strings.Contains(listing, agent.GuardTable) != guarded {
			t.Errorf("guarded %v: after a flush nft lists\n%s", guarded, listing)
		}
		err = exchange(conn, timeout)
		l.reconcile()
		return err
	}
	if err := exchangeAcrossFlush(true); err != nil {
		t.Errorf("with the guard an open connection ends: %v", err)
	}
	if listing := l.nft("", "list", "ruleset"); strings.Contains(listing, agent.GuardTable) {
		t.Errorf("the guard left its table behind:\n%s", listing)
	}
	if err := exchangeAcrossFlush(false); err == nil {
		t.Error("without the guard the open connection continues: the test proves nothing")
	}
}

// exchange sends a line to serveEcho and waits until it comes back.
func exchange(conn net.Conn, timeout time.Duration) error {
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	_, err := bufio.NewReader(conn).ReadString('\n')
	return err
}
