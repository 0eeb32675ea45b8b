package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// scriptPod is the key of the script value that holds the Pod "client", a **sandbox.Pod.
type scriptPod struct{}

// scriptConnection is the key of the script value that holds the connection of the command open, a *net.Conn.
type scriptConnection struct{}

// network gives the script's namespace an address, a Pod "client", and a Pod 10.244.1.2 that accepts connections at port 8080 and
// sends back what it receives at port 8081.
func network(ts *testscript.TestScript, _ bool, _ []string) {
	node, err := sandbox.Current()
	ts.Check(err)
	ts.Defer(func() { node.Close() })
	n, err := sandbox.NewNetwork(node, netip.MustParseAddr("192.0.2.10"))
	ts.Check(err)
	ts.Defer(func() { n.Close() })
	client, err := n.AddPod("client", netip.MustParseAddr("10.244.1.9"))
	ts.Check(err)
	server, err := n.AddPod("server", netip.MustParseAddr("10.244.1.2"))
	ts.Check(err)
	listener, err := server.Listen("tcp", "10.244.1.2:8080")
	ts.Check(err)
	ts.Defer(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	echoes, err := server.Listen("tcp", "10.244.1.2:8081")
	ts.Check(err)
	ts.Defer(func() { echoes.Close() })
	go func() {
		for {
			c, err := echoes.Accept()
			if err != nil {
				return
			}
			go echoUntil(time.Now().Add(time.Minute), c)
		}
	}()
	*ts.Value(scriptPod{}).(**sandbox.Pod) = client
}

// echoUntil sends back what arrives on a connection, until its end or a deadline: of a connection whose conntrack entry is gone, no end
// arrives.
func echoUntil(deadline time.Time, c net.Conn) {
	c.SetDeadline(deadline)
	io.Copy(c, c)
	c.Close()
}

// openFromPod opens a connection from the Pod "client" that stays open: open ADDRESS:PORT
func openFromPod(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 || neg {
		ts.Fatalf("usage: open ADDRESS:PORT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := (*ts.Value(scriptPod{}).(**sandbox.Pod)).Dial(ctx, "tcp", "", args[0])
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	*ts.Value(scriptConnection{}).(*net.Conn) = c
}

// echo sends a byte on the open connection and waits until it comes back.
func echo(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(exchangeByte(ts)) }

// reset sends a byte every tenth of a second, each of which must come back, until the connection is reset, for at most ten seconds.
func reset(ts *testscript.TestScript, _ bool, _ []string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		switch err := exchangeByte(ts); {
		case errors.Is(err, unix.ECONNRESET):
			return
		case err != nil:
			ts.Fatalf("the connection is not reset: %v", err)
		case time.Now().After(deadline):
			ts.Fatalf("the connection still works")
		}
	}
}

func exchangeByte(ts *testscript.TestScript) error {
	c := *ts.Value(scriptConnection{}).(*net.Conn)
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte{'?'}); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// connectFromPod opens a connection from the Pod "client": [!] connect ADDRESS:PORT
func connectFromPod(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] connect ADDRESS:PORT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c, err := (*ts.Value(scriptPod{}).(**sandbox.Pod)).Dial(ctx, "tcp", "", args[0])
	if (err != nil) != neg {
		ts.Fatalf("connect %s: %v", args[0], err)
	}
	if err == nil {
		io.Copy(io.Discard, c)
		c.Close()
	}
}
