package cli

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"nfproxy/sandbox"
)

// scriptPod is the key of the script value that holds the Pod "client", a **sandbox.Pod.
type scriptPod struct{}

// network gives the script's namespace an address, a Pod "client", and a Pod 10.244.1.2 that accepts connections at port 8080.
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
	*ts.Value(scriptPod{}).(**sandbox.Pod) = client
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
