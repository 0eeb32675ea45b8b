package watcher

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// rotatedTransport sends each request with the credentials that the files of a client configuration contain at that time: the
// token, the client certificate and the authorities of the server. client-go alone takes up to a minute to read a new token, and
// up to five minutes for the authorities and for the certificate of an open connection.
//
// After a change of a file, requests use new connections. Responses that have not ended keep theirs.
type rotatedTransport struct {
	files []string
	make  func() (http.RoundTripper, error)

	mu sync.Mutex
	// current is the RoundTripper for contents, which are the contents of the files.
	current  http.RoundTripper
	contents string
}

func newRotatedTransport(config *rest.Config, make func() (http.RoundTripper, error)) (*rotatedTransport, error) {
	t := &rotatedTransport{make: make}
	for _, file := range []string{config.BearerTokenFile, config.CAFile, config.CertFile, config.KeyFile} {
		if file != "" {
			t.files = append(t.files, file)
		}
	}
	t.contents = t.read()
	var err error
	t.current, err = t.make()
	return t, err
}

// read returns the contents of the files. An unreadable file counts as empty.
func (t *rotatedTransport) read() string {
	var all strings.Builder
	for _, file := range t.files {
		content, _ := os.ReadFile(file)
		fmt.Fprintf(&all, "%d %s", len(content), content)
	}
	return all.String()
}

// transport returns the RoundTripper for the present contents of the files. While they are unusable, such as a certificate
// whose key is not written yet, it returns the previous one.
func (t *rotatedTransport) transport() http.RoundTripper {
	t.mu.Lock()
	defer t.mu.Unlock()
	contents := t.read()
	if contents == t.contents {
		return t.current
	}
	next, err := t.make()
	if err != nil {
		return t.current
	}
	utilnet.CloseIdleConnectionsFor(t.current)
	t.current, t.contents = next, contents
	return next
}

// RoundTrip implements http.RoundTripper.
func (t *rotatedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.transport().RoundTrip(r)
}
