package watcher

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// credentialServer is a server that a test gives other certificates. It records the credentials of the last request.
type credentialServer struct {
	*httptest.Server
	ns *sandbox.Namespace

	mu          sync.Mutex
	certificate tls.Certificate
	token       string
	client      []byte // certificate
}

func newCredentialServer(t *testing.T) *credentialServer {
	t.Helper()
	s := &credentialServer{}
	s.Server = httptest.NewUnstartedServer(s)
	var err error
	if s.ns, err = sandbox.NewNamespace(); err != nil {
		t.Fatal(err)
	}
	if s.Listener, err = s.ns.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		certificate := s.certificate
		return &certificate, nil
	}}
	s.StartTLS()
	s.TLS.Certificates = nil // StartTLS adds one
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		_ = s.ns.Close()
	})
	return s
}

// ServeHTTP answers with the path, and waits before it ends the answer to a path with a query.
func (s *credentialServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.token, s.client = r.Header.Get("Authorization"), nil
	if len(r.TLS.PeerCertificates) > 0 {
		s.client = r.TLS.PeerCertificates[0].Raw
	}
	s.mu.Unlock()
	_, _ = io.WriteString(w, r.URL.Path) // fails if the client has gone
	if r.URL.RawQuery != "" {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// TestRotatedCredentials: each request uses the token, the client certificate and the authority that the files contain. Responses
// that have not ended stay open, and a file that cannot be used changes nothing.
func TestRotatedCredentials(t *testing.T) {
	t.Parallel()
	s := newCredentialServer(t)
	dir := t.TempDir()
	token, authority := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	certificate, key := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	newServer := func() []byte {
		ca, server, err := controlplane.NewServer(time.Time{}, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.certificate = server
		return ca
	}
	newClient := func() (raw []byte) {
		_, client, err := controlplane.NewServer(time.Time{}, netip.MustParseAddr("127.0.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificate[0]})))
		writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
		return client.Certificate[0]
	}
	writeFile(t, token, "first")
	writeFile(t, authority, string(newServer()))
	client := newClient()
	clients, err := newRESTClients(&rest.Config{
		Host:            s.URL,
		BearerToken:     "first",
		BearerTokenFile: token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: authority, CertFile: certificate, KeyFile: key},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return s.ns.Dial(ctx, network, "", addr)
		},
	}, newPace())
	if err != nil {
		t.Fatal(err)
	}
	defer clients.close()
	get := func(url, wantToken string, wantClient []byte) *http.Response {
		t.Helper()
		response, err := clients.http.Get(s.URL + url)
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.token != "Bearer "+wantToken || !bytes.Equal(s.client, wantClient) {
			t.Errorf("token %q, want %q; the expected client certificate: %v", s.token, wantToken, bytes.Equal(s.client, wantClient))
		}
		return response
	}
	open := get("/watch?open", "first", client)
	defer open.Body.Close()
	writeFile(t, token, "second")
	get("/", "second", client).Body.Close()
	client = newClient()
	get("/", "second", client).Body.Close()
	writeFile(t, authority, string(newServer()))
	get("/", "second", client).Body.Close()
	writeFile(t, authority, "no certificate")
	get("/", "second", client).Body.Close()
	text := make([]byte, 6)
	if _, err := io.ReadFull(open.Body, text); err != nil || string(text) != "/watch" {
		t.Errorf("the open response: %q, %v", text, err)
	}
	if open.ProtoMajor != 2 {
		t.Errorf("HTTP/%d", open.ProtoMajor)
	}
}
