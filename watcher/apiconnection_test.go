package watcher

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"nfproxy/render"
)

// TestAPIReconnects: after a thousand broken connections nothing unchanged is reported and no goroutine is left behind.
func TestAPIReconnects(t *testing.T) {
	const times = 1000
	var watches atomic.Int32
	s := newServer(t).by(func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				response, err := next.RoundTrip(r)
				if err == nil && response.StatusCode == http.StatusOK {
					watches.Add(1)
				}
				return response, err
			})
		})
	})
	w := newWorld(t, s, aService("web", "10.96.1.1"), aSlice("web-1", "web", "10.1.0.1"))
	w.until("web http 80/tcp 10.1.0.1:8080")
	var early int
	for i := range times {
		n, start := watches.Load(), time.Now()
		closed := start
		w.source.(*API).clients.dialer.CloseAll()
		for ; watches.Load() == n; time.Sleep(time.Millisecond) {
			switch {
			case time.Since(start) > patience:
				t.Fatal("the source does not reconnect")
			case time.Since(closed) > time.Second: // a connection that was being dialled escaped CloseAll
				closed = time.Now() // again only after another second: a handshake takes longer than a round of this loop
				w.source.(*API).clients.dialer.CloseAll()
			}
		}
		if i == times/10 {
			early = runtime.NumGoroutine()
		}
	}
	w.quiet()
	if now := runtime.NumGoroutine(); now > early+20 {
		t.Errorf("%d goroutines, %d after a tenth of the connections", now, early)
	}
}

// TestAPIClose: Close leaves no goroutine and no descriptor behind and wakes Next, whether the server answers or not.
func TestAPIClose(t *testing.T) {
	s := newServer(t)
	checkLeaks := noLeaks(t)
	for i := range 10 {
		l := &line{cut: i%2 == 1}
		a, err := newAPI(l.to(s).config, render.Node{Name: "n1"}, nodePortAddresses{}, newPace(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if l.cut {
			for l.dialled() < 4 {
				time.Sleep(time.Millisecond)
			}
		} else if _, err := a.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		result := make(chan error)
		go func() {
			_, err := a.Next(context.Background())
			result <- err
		}()
		start := time.Now()
		if err := errors.Join(a.Close(), a.Close()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next after Close: error %v, want %v", err, os.ErrClosed)
		}
	}
	checkLeaks()
}

func TestNewAPIErrors(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*rest.Config{
		"host":        {Host: "://"},
		"certificate": {Host: "https://192.0.2.1", TLSClientConfig: rest.TLSClientConfig{CertData: []byte("x"), KeyData: []byte("y")}},
	} {
		if a, err := newAPI(config, render.Node{}, nodePortAddresses{}, newPace(), slog.New(slog.DiscardHandler)); err == nil {
			_ = a.Close()
			t.Errorf("invalid %s: no error", name)
		}
	}
}
