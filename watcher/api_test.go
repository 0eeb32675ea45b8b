package watcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"nfproxy/integration/controlplane"
	"nfproxy/logtest"
	"nfproxy/render"
)

// shortPace returns the pace for an API server without other clients.
func shortPace() pace {
	p := newPace()
	p.backoff = &wait.Backoff{Duration: 5 * time.Millisecond, Cap: 20 * time.Millisecond, Steps: 10, Factor: 2}
	p.heed, p.repeat, p.burst = 20*time.Millisecond, time.Millisecond, 100
	return p
}

// TestAPI tests what directories do not have.
func TestAPI(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, test := range map[string]func(*testing.T, *server){
		"service CIDRs": testServiceCIDRs,
		"node deleted":  testNodeDeleted,
		"node missing":  testNodeMissing,
		"interfaces":    testInterfaces,
		"permissions":   testPermissions,
		"incomplete":    testIncomplete,
		"lists":         testLists,
		"cut off":       testCutOff,
		"restart":       testRestart,
		"repeats":       testRepeats,
		"retry after":   testRetryAfter,
		"no relist":     testNoRelist,
		"black hole":    testBlackHole,
		"timeouts":      testTimeoutIsLogged,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// by returns the same server with a changed client configuration.
func (s *server) by(change func(*rest.Config)) *server {
	other := *s
	other.config = rest.CopyConfig(s.config)
	change(other.config)
	return &other
}

// ranges returns the ServiceCIDRs of the last Update.
func (w *world) ranges() string { return strings.Trim(fmt.Sprint(w.last.Node.ServiceCIDRs), "[]") }

const serverRanges = controlplane.ServiceCIDR4 + " " + controlplane.ServiceCIDR6

func testServiceCIDRs(t *testing.T, s *server) {
	w := newWorld(t, s, aService("web", "10.96.1.1"))
	if got := w.ranges(); got != serverRanges {
		t.Errorf("ranges %s", got)
	}
	more := func(cidrs ...string) *networkingv1.ServiceCIDR {
		return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: cidrs[0][:5]}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	}
	step := func(want string) {
		t.Helper()
		clear(w.state)
		if _, err := w.next(patience); err != nil || w.ranges() != want {
			t.Fatalf("ranges %s, want %s, %v", w.ranges(), want, err)
		}
		w.until("web http 80/tcp")
	}
	first, second := more("10.112.0.0/24"), more("10.90.0.0/24", "fd00:10:90::/112")
	w.put(first)
	step(controlplane.ServiceCIDR4 + " 10.112.0.0/24 fd00:10:96::/112")
	w.put(second)
	step("10.90.0.0/24 " + controlplane.ServiceCIDR4 + " 10.112.0.0/24 fd00:10:90::/112 fd00:10:96::/112")
	w.put(with(second, func(o *networkingv1.ServiceCIDR) { o.Labels = map[string]string{"x": "y"} }))
	w.remove(first)
	step("10.90.0.0/24 " + controlplane.ServiceCIDR4 + " fd00:10:90::/112 fd00:10:96::/112")
	w.remove(second)
	step(serverRanges)
}

func testNodeDeleted(t *testing.T, s *server) {
	node := aNode("z1", "192.0.2.1")
	w := newWorld(t, s, node)
	if w.last.NotEligible || w.last.Node.Zone != "z1" {
		t.Errorf("first Update: %v", w.last)
	}
	w.remove(node)
	w.quiet()
	w.source.(*API).clients.dialer.CloseAll()
	w.quiet()
	w.logged(1, "Node object of this machine was deleted")
	w.put(node)
	w.quiet()
}

func testNodeMissing(t *testing.T, s *server) {
	w := newWorld(t, s, aService("web", "10.96.1.1"))
	w.until("web http 80/tcp")
	if !w.last.NotEligible {
		t.Error("eligible without a Node")
	}
	w.logged(1, "level=WARN", "Node object of this machine does not exist", "node=n1")
}

// testInterfaces: a change of the interface addresses gives an Update without the Node's addresses, and with the Services that have
// node ports.
func testInterfaces(t *testing.T, s *server) {
	m := newMachine(t)
	m.add("192.0.2.1/24")
	nodePorts := m.nodePorts("192.0.2.0/24")
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: s, there: map[objectKey]runtime.Object{}}
	web := with(aService("web", "10.96.1.1"), func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	})
	w.put(aNode("z1", "198.51.100.1"), web)
	a, err := newAPI(s.config, render.Node{Name: "n1"}, nodePorts, shortPace(), w.logger())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		w.must(a.Close())
		for _, o := range w.there {
			s.remove(w, o)
		}
	}()
	w.source = a
	expect := func(want ...string) {
		t.Helper()
		clear(w.state)
		if _, err := w.next(patience); err != nil || !slices.Equal(w.last.Node.Addresses, addrs(want...)) || w.last.Node.Zone != "z1" {
			t.Fatalf("Update %v, %v, want addresses %v", w.last, err, want)
		}
		w.until("web http 80/tcp at nodes 30080")
	}
	expect("192.0.2.1")
	m.add("192.0.2.2/24")
	expect("192.0.2.1", "192.0.2.2")
	m.del("192.0.2.2/24")
	expect("192.0.2.1")
}

// testPermissions: a missing RBAC permission is logged, and the first Update follows when it is granted. The permission to
// read ServiceCIDRs is not required.
func testPermissions(t *testing.T, s *server) {
	ctx := t.Context()
	s.allow(t, "services", "", "services", "nodes")
	nobody := s.by(func(c *rest.Config) { *c = *s.Config("nobody") })
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: nobody}
	a, err := nobody.open(w)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	w.source = a
	if _, err := w.next(time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Next: %v", err)
	}
	w.logged(1, "level=ERROR", "RBAC permission is missing", "verb=watch", "resource=endpointslices.discovery.k8s.io")
	w.logged(1, "level=ERROR", "RBAC permission is missing", "verb=list", "resource=endpointslices.discovery.k8s.io")
	s.allow(t, "slices", "discovery.k8s.io", "endpointslices")
	if _, err := w.next(patience); err != nil {
		t.Fatal(err)
	}
	if w.last.Node.ServiceCIDRs != nil {
		t.Errorf("ranges %v", w.last.Node.ServiceCIDRs)
	}
	w.logged(1, "level=INFO", "RBAC permission is missing", "verb=watch", "resource=servicecidrs.networking.k8s.io")
	s.allow(t, "ranges", "networking.k8s.io", "servicecidrs")
	if _, err := w.next(patience); err != nil || w.ranges() != serverRanges {
		t.Fatalf("ranges %v, %v", w.ranges(), err)
	}
	w.logged(0, "does not answer")
	if err := s.clients.RbacV1().ClusterRoleBindings().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "test"}); err != nil {
		t.Error(err)
	}
}

// allow grants the user named "nobody" the permission to list and watch the resources.
func (s *server) allow(t *testing.T, name, group string, resources ...string) {
	t.Helper()
	ctx, meta := context.Background(), metav1.ObjectMeta{Name: "test-" + name, Labels: map[string]string{"test": ""}}
	_, err := s.clients.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"list", "watch"}, APIGroups: []string{group}, Resources: resources},
	}}, metav1.CreateOptions{})
	if err == nil {
		_, err = s.clients.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "nobody"}},
		}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// testIncomplete: there is no Update before the objects of all resources are known.
func testIncomplete(t *testing.T, s *server) {
	for _, r := range resources(render.Node{Name: "n1"}) {
		gate := make(chan struct{})
		w := &world{watched: newWatched(t, nil, new(logtest.Buffer))}
		a, err := s.by(func(c *rest.Config) {
			c.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(request *http.Request) (*http.Response, error) {
					if path.Base(request.URL.Path) == r.name {
						<-gate
					}
					return next.RoundTrip(request)
				})
			})
		}).open(w)
		if err != nil {
			t.Fatal(err)
		}
		w.source = a
		if _, err := w.next(300 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Next without %s: %v", r.name, err)
		}
		close(gate)
		if _, err := w.next(patience); err != nil || w.ranges() != serverRanges {
			t.Errorf("Next with %s: %v, %v", r.name, w.last, err)
		}
		w.must(a.Close())
	}
}

// testLists: the initial objects are listed if the server does not support streams, and the lists are the latest state.
func testLists(t *testing.T, s *server) {
	var streams, lists, stale atomic.Int32
	old := s.by(func(c *rest.Config) {
		c.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Query().Get("watch") == "" {
					lists.Add(1)
					if r.URL.Query().Get("resourceVersion") == "0" {
						stale.Add(1)
					}
				}
				if r.URL.Query().Has("sendInitialEvents") {
					streams.Add(1)
					query := r.URL.Query()
					query.Set("resourceVersionMatch", "invalid") // the server rejects it, as one without streams rejects the request
					r.URL.RawQuery = query.Encode()
				}
				return next.RoundTrip(r)
			})
		})
	})
	slice := aSlice("web-1", "web", "10.1.0.1")
	w := newWorld(t, old, aService("web", "10.96.1.1"), slice)
	w.until("web http 80/tcp 10.1.0.1:8080")
	w.remove(slice)
	w.until("web http 80/tcp")
	if streams.Load() != 4 || lists.Load() != 4 {
		t.Errorf("%d streams, %d lists", streams.Load(), lists.Load())
	}
	if stale.Load() > 0 {
		t.Errorf("%d lists accept an old state", stale.Load())
	}
	w.logged(0, "does not answer")
}

// line is a connection to a server that a test can cut.
type line struct {
	mu    sync.Mutex
	cut   bool
	dials int
}

func (l *line) to(s *server) *server {
	return s.by(func(c *rest.Config) {
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.dials++; l.cut {
				return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
			}
			return dial(ctx, network, addr)
		}
	})
}

func (l *line) set(cut bool, a source) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut = cut; cut {
		a.(*API).clients.dialer.CloseAll()
	}
}

func (l *line) dialled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dials
}

// testCutOff: after a lost connection Updates report what has changed meanwhile and nothing else.
func testCutOff(t *testing.T, s *server) {
	var l line
	w := newWorld(t, l.to(s), aService("a", "10.96.1.1"), aService("b", "10.96.1.2"), aSlice("a-1", "a", "10.1.0.1"))
	w.until("a http 80/tcp 10.1.0.1:8080", "b http 80/tcp")
	l.set(true, w.source)
	for n := l.dialled(); l.dialled() < n+20; {
		time.Sleep(time.Millisecond)
	}
	w.logged(1, "level=WARN", "API server does not answer") // the first error can be that of the broken watch
	l.set(false, w.source)
	w.quiet()
	w.logged(1, "level=INFO", "API server answers again", "after=")

	l.set(true, w.source)
	w.remove(aService("b", ""))
	w.put(aSlice("a-1", "a", "10.1.0.2"), aService("c", "10.96.1.3"))
	l.set(false, w.source)
	w.until("a http 80/tcp 10.1.0.2:8080", "c http 80/tcp")
	w.quiet()
}

// testRestart: after a restart the server no longer knows earlier changes (410 Gone) and sends all objects again. Updates
// still report only what has changed.
func testRestart(t *testing.T, s *server) {
	var l line
	w := newWorld(t, l.to(s), aNode("z1", "192.0.2.1"), aService("a", "10.96.1.1"), aService("b", "10.96.1.2"), aSlice("a-1", "a", "10.1.0.1"))
	w.until("a http 80/tcp 10.1.0.1:8080", "b http 80/tcp")
	replaced := func() int { return len(w.log.Lines("Caches populated")) }
	before := replaced()
	restart := func(meanwhile func()) {
		l.set(true, w.source)
		meanwhile()
		s.RestartAPIServer()
		l.set(false, w.source)
	}
	other := aSlice("other-1", "other", "10.1.0.1")
	restart(func() { w.put(other) })
	w.quiet()
	if replaced() == before {
		t.Error("no resource was listed again")
	}
	restart(func() {
		w.remove(aService("b", ""))
		w.remove(other)
		w.put(aSlice("a-1", "a", "10.1.0.2"), aService("c", "10.96.1.3"))
	})
	w.until("a http 80/tcp 10.1.0.2:8080", "c http 80/tcp")
	w.quiet()
	w.logged(2, "level=WARN", "API server does not answer")
	w.logged(2, "level=INFO", "API server answers again")
}
