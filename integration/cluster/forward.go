package cluster

import (
	"fmt"
	"io"
	"net"
	"testing"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// ForwardAPI makes the API server of one namespace reachable at the loopback address of another one.
func ForwardAPI(t testing.TB, from, to *sandbox.Namespace) {
	t.Helper()
	at := fmt.Sprintf("127.0.0.1:%d", controlplane.Port)
	ServeTCP(t, to, at, func(conn net.Conn) {
		server, err := from.Dial(t.Context(), "tcp", "", at)
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			io.Copy(server, conn)
			server.Close()
		}()
		io.Copy(conn, server)
	})
}
