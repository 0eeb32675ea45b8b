package cluster

import (
	"fmt"
	"io"
	"net/http"
	"testing"
)

// Fetch returns the status and the body of an HTTP response from a port of the loopback address. If there is no response,
// the status is 0 and the body is the error.
func Fetch(port int, path string) (int, string) { return FetchAt("127.0.0.1", port, path) }

// FetchAt is Fetch for a port of another host.
func FetchAt(host string, port int, path string) (int, string) {
	response, err := http.Get(fmt.Sprintf("http://%s:%d%s", host, port, path))
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// AwaitAnswer waits until a port of the loopback address answers an HTTP request with this status and with a body that
// contains all of the texts.
func AwaitAnswer(t testing.TB, port int, path string, status int, texts ...string) {
	t.Helper()
	EventuallyTrue(t, fmt.Sprintf("port %d answers %s with status %d and %q", port, path, status, texts), func() (bool, string) {
		got, body := Fetch(port, path)
		ok, lacks := containsAll(body, texts)
		return ok && got == status, fmt.Sprintf("status %d; %s", got, lacks)
	})
}
