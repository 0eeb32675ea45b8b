package apichaos

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

// proxy is an HTTP/2 proxy in front of the API server that disturbs requests and responses. Clients authenticate with tokens.
type proxy struct {
	addr    string
	server  *http.Server
	forward http.Handler

	mu          sync.Mutex
	certificate tls.Certificate
	// respond answers a request instead of the API server, and reports whether it did. body changes the body of a response.
	respond func(http.ResponseWriter, *http.Request) bool
	body    func(*http.Request, io.ReadCloser) io.ReadCloser
	cancels map[*http.Request]context.CancelFunc
}

// newProxy starts a proxy at an address of the node.
func newProxy(t testing.TB, c *cluster.Cluster) *proxy {
	t.Helper()
	target, err := url.Parse(controlplane.URL(cluster.NodeAddrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAData: c.AdminConfig().CAData}, Host: target.String()})
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{certificate: c.ServerCertificate(), cancels: make(map[*http.Request]context.CancelFunc)}
	p.forward = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ModifyResponse: func(r *http.Response) error {
			if body := p.bodyFault(); body != nil {
				r.Body = body(r.Request, r.Body)
				r.ContentLength = -1
				r.Header.Del("Content-Length")
			}
			return nil
		},
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	p.addr = listener.Addr().String()
	p.server = &http.Server{
		Handler:  http.HandlerFunc(p.serve),
		ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{NextProtos: []string{"h2"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			certificate := p.certificate
			return &certificate, nil
		}},
	}
	go p.server.ServeTLS(listener, "", "")
	t.Cleanup(func() { p.server.Close() })
	return p
}

func (p *proxy) bodyFault() func(*http.Request, io.ReadCloser) io.ReadCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.body
}

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	p.mu.Lock()
	respond := p.respond
	p.cancels[r] = cancel
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.cancels, r)
	}()
	if respond != nil && respond(w, r) {
		return
	}
	p.forward.ServeHTTP(w, r.WithContext(ctx))
}

// set replaces the faults and ends the responses that have begun.
func (p *proxy) set(respond func(http.ResponseWriter, *http.Request) bool, body func(*http.Request, io.ReadCloser) io.ReadCloser) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.respond, p.body = respond, body
	for _, cancel := range p.cancels {
		cancel()
	}
}

// replaceCertificate replaces the certificate of the proxy for new connections.
func (p *proxy) replaceCertificate(certificate tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.certificate = certificate
}

// deny returns a fault that answers every request with a status.
func deny(status metav1.Status) func(http.ResponseWriter, *http.Request) bool {
	status.Kind, status.APIVersion, status.Status = "Status", "v1", metav1.StatusFailure
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
		}
		w.WriteHeader(int(status.Code))
		_ = json.NewEncoder(w).Encode(status) // fails if the client has gone
		return true
	}
}

// slow returns a fault that sends the response for a resource at a number of bytes a second.
func slow(resource string, rate int) func(*http.Request, io.ReadCloser) io.ReadCloser {
	return func(r *http.Request, body io.ReadCloser) io.ReadCloser {
		if path.Base(r.URL.Path) != resource {
			return body
		}
		return changedBody{slowReader{body, rate / 10}, body}
	}
}

// changedBody is a body with a changed content.
type changedBody struct {
	io.Reader
	io.Closer
}

type slowReader struct {
	from   io.Reader
	tenths int // bytes in a tenth of a second
}

func (s slowReader) Read(b []byte) (int, error) {
	time.Sleep(time.Second / 10)
	return s.from.Read(b[:min(len(b), s.tenths)])
}

// cutBody returns a fault that ends every response after some bytes as if it were complete.
func cutBody(after func() int) func(*http.Request, io.ReadCloser) io.ReadCloser {
	return func(_ *http.Request, body io.ReadCloser) io.ReadCloser {
		return changedBody{io.LimitReader(body, int64(after())), body}
	}
}

// lateBookmarks returns a fault that delays the bookmarks of watches, and what follows them.
func lateBookmarks(by time.Duration) func(*http.Request, io.ReadCloser) io.ReadCloser {
	return func(r *http.Request, body io.ReadCloser) io.ReadCloser {
		if !r.URL.Query().Has("watch") {
			return body
		}
		out, in := io.Pipe()
		go func() {
			in.CloseWithError(copyFrames(in, body, func(frame []byte) {
				if bytes.Contains(frame, []byte("BOOKMARK")) {
					time.Sleep(by)
				}
			}))
		}()
		return changedBody{out, body}
	}
}

// copyFrames copies the frames of a watch in Protobuf: a length of four bytes and an event. It calls before with each event.
func copyFrames(to io.Writer, from io.Reader, before func([]byte)) error {
	for {
		var head [4]byte
		if _, err := io.ReadFull(from, head[:]); err != nil {
			return err
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(from, frame); err != nil {
			return err
		}
		before(frame)
		if _, err := to.Write(append(head[:], frame...)); err != nil {
			return err
		}
	}
}
