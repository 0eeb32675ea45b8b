// Package apistub is as much of an API server as a service proxy needs, for tests in emulated machines, which are too slow for the real one.
package apistub

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/controlplane"
)

// Server has lists and watches of objects that are never removed, and the creation of Events.
type Server struct {
	*httptest.Server
	authority []byte

	mu      sync.Mutex
	objects []stored      // the resource version of an object is its place, from 1
	changed chan struct{} // closed at the next change
	token   string        // of the requests that are authorized
	counts  Counts
}

// Counts are the numbers of connections and Events so far, and of authorized requests since the last rotation of the token.
type Counts struct{ Connections, Events, Served int }

// stored is an object of a resource.
type stored struct {
	resource string
	text     json.RawMessage
}

// kinds are the kinds of the resources.
var kinds = map[string]metav1.TypeMeta{
	"nodes":          {APIVersion: "v1", Kind: "Node"},
	"services":       {APIVersion: "v1", Kind: "Service"},
	"endpointslices": {APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
	"servicecidrs":   {APIVersion: "networking.k8s.io/v1", Kind: "ServiceCIDR"},
}

// New starts a server. Its certificate is valid for 12 hours before and after now.
func New(t testing.TB, token string) *Server {
	t.Helper()
	s := &Server{changed: make(chan struct{}), token: token}
	var certificate tls.Certificate
	var err error
	if s.authority, certificate, err = controlplane.NewServer(time.Time{}, netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.counts.Connections++
		return &certificate, nil
	}}
	s.StartTLS()
	s.TLS.Certificates = nil // StartTLS adds one
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Put stores an object.
func (s *Server) Put(t testing.TB, resource string, o metav1.Object) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	o.SetResourceVersion(strconv.Itoa(len(s.objects) + 1))
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	s.objects = append(s.objects, stored{resource, text})
	close(s.changed)
	s.changed = make(chan struct{})
}

// Rotate replaces the token: requests with another one are denied.
func (s *Server) Rotate(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token, s.counts.Served = token, 0
}

// Counts returns what the server has counted.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// authorizes reports whether a request has the token.
func (s *Server) authorizes(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer "+s.token {
		return false
	}
	s.counts.Served++
	if r.Method == http.MethodPost {
		s.counts.Events++
	}
	return true
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	resource, query := path.Base(r.URL.Path), r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	switch _, known := kinds[resource]; {
	case !s.authorizes(r):
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`)
	case r.Method == http.MethodPost: // an Event
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	case !known:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	case query.Get("watch") != "":
		from, _ := strconv.Atoi(query.Get("resourceVersion")) // without one, from the beginning
		s.watch(w, r, resource, from, query.Get("sendInitialEvents") == "true")
	default:
		list, version, _ := s.since(resource, 0)
		_, _ = fmt.Fprintf(w, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[%s]}`,
			kinds[resource].Kind, kinds[resource].APIVersion, version, bytes.Join(list, []byte(",")))
	}
}

// since returns the objects of a resource after a resource version, the present version, and a channel that is closed at the next
// change.
func (s *Server) since(resource string, from int) (list [][]byte, version int, changed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.objects[from:] {
		if o.resource == resource {
			list = append(list, o.text)
		}
	}
	return list, len(s.objects), s.changed
}

// watch sends the objects of a resource after a resource version, until the client ends. With initial, a bookmark tells when the
// client has those that exist.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, resource string, from int, initial bool) {
	for {
		list, version, changed := s.since(resource, from)
		for _, text := range list {
			_, _ = fmt.Fprintf(w, `{"type":"ADDED","object":%s}`, text) // fails if the client has gone
		}
		if initial {
			_, _ = fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{%q:"true"}}}}`,
				kinds[resource].Kind, kinds[resource].APIVersion, version, metav1.InitialEventsAnnotationKey)
		}
		from, initial = version, false
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

// Kubeconfig returns a configuration for clients of the server, whose token is in a file.
func (s *Server) Kubeconfig(tokenFile string) string {
	authority, _ := json.Marshal(s.authority) // base64
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {tokenFile: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, s.URL, authority, tokenFile)
}
