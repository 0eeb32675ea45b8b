package cluster

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// fetch returns the status and the body of an answer on this machine.
func Fetch(port int, path string) (int, string) { return FetchAt("127.0.0.1", port, path) }

func FetchAt(host string, port int, path string) (int, string) {
	answer, err := http.Get(fmt.Sprintf("http://%s:%d%s", host, port, path))
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}

// answers waits until a port of this machine answers so, with all these texts.
func AwaitAnswer(t testing.TB, port int, path string, status int, texts ...string) {
	t.Helper()
	EventuallyTrue(t, fmt.Sprintf("port %d%s answers %d with %q", port, path, status, texts), func() (bool, string) {
		got, body := Fetch(port, path)
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return false, fmt.Sprintf("%d, no %q in\n%s", got, text, body)
			}
		}
		return got == status, fmt.Sprint(got, body)
	})
}
