package health

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// startLimited serves 200 at a local address with both kinds of server.
func startLimited(t *testing.T) map[string]string {
	t.Helper()
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	log := slog.New(slog.DiscardHandler)
	open := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ctx, stop := context.WithCancel(context.Background())
	of, port := open(), open()
	ended := make(chan error, 2)
	go func() { ended <- (&server{handler: ok, log: log}).serve(ctx, of) }()
	portServer := newPortServer(ok, newConnections(), log)
	go func() { ended <- portServer.Serve(port) }()
	t.Cleanup(func() {
		stop()
		portServer.Close()
		<-ended
		<-ended
	})
	return map[string]string{"server": of.Addr().String(), "health check node port": port.Addr().String()}
}

// TestConnectionsAreLimited: clients that open connections and send nothing, or half a request, take at most maxConnections, and
// other clients are still answered.
func TestConnectionsAreLimited(t *testing.T) {
	for name, at := range startLimited(t) {
		var held []net.Conn
		for i := range maxConnections + 100 {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if i%2 == 0 {
				fmt.Fprint(conn, "GET / HTTP/1.1\r\n")
			}
			held = append(held, conn)
		}
		if response, _ := get(t, "http://"+at); response.StatusCode != http.StatusOK {
			t.Errorf("%s: another client gets %s", name, response.Status)
		}
		open, deadline := 0, time.Now().Add(patience)
		for i, conn := range held {
			if i >= 100 { // newer connections stay open: do not wait long for each
				deadline = time.Now().Add(time.Millisecond)
			}
			conn.SetReadDeadline(deadline)
			if _, err := conn.Read(make([]byte, 1)); err != nil && strings.Contains(err.Error(), "timeout") {
				open++
			}
		}
		if open < maxConnections-10 || open > maxConnections {
			t.Errorf("%s: %d connections are open", name, open)
		}
	}
}

// TestHeadersAreLimited: a request with a larger header than the limit is refused, one with a bearer token of 8 kB is not.
func TestHeadersAreLimited(t *testing.T) {
	for name, at := range startLimited(t) {
		for size, want := range map[int]int{8 << 10: http.StatusOK, 64 << 10: http.StatusRequestHeaderFieldsTooLarge} {
			request, err := http.NewRequest(http.MethodGet, "http://"+at, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", strings.Repeat("a", size))
			response, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(request)
			if err != nil {
				t.Errorf("%s: a header of %d bytes: %v", name, size, err)
				continue
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode != want {
				t.Errorf("%s: a header of %d bytes gets %s", name, size, response.Status)
			}
		}
	}
}
