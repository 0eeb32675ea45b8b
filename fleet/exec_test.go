package fleet

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestExecHangs: if the API server does not complete the upgrade of a connection, over WebSocket or over SPDY, the node's time limit and
// an interruption end the command nevertheless.
func TestExecHangs(t *testing.T) {
	for _, c := range []struct {
		name        string
		noWebSocket bool
		limit       time.Duration
		want        string
	}{
		{"WebSocket, limit", false, 100 * time.Millisecond, "no answer within 100ms"},
		{"WebSocket, interrupted", false, time.Minute, "interrupted"},
		{"SPDY, limit", true, 100 * time.Millisecond, "no answer within 100ms"},
		{"SPDY, interrupted", true, time.Minute, "interrupted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			arrived, end := make(chan struct{}, 1), make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if c.noWebSocket && r.Method == http.MethodGet {
					http.Error(w, "no WebSocket here", http.StatusBadRequest)
					return
				}
				arrived <- struct{}{}
				<-end
			}))
			defer server.Close()
			defer close(end)
			client, err := NewClient(&rest.Config{Host: server.URL}, "test")
			if err != nil {
				t.Fatal(err)
			}
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			answered := make(chan Answer, 1)
			go func() {
				answered <- client.exec(ctx, Target{Node: "a", Namespace: "n", Pod: "p", Container: "c", Program: program}, []string{"status"}, c.limit)
			}()
			<-arrived
			if c.limit == time.Minute {
				interrupt()
			}
			select {
			case a := <-answered:
				if a.Failure != c.want {
					t.Errorf("%q, want %q", a.Failure, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("no end within 10 s")
			}
		})
	}
}
