package watcher

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"nfproxy/logtest"
	"nfproxy/render"
)

// TestNodePortAddresses: which addresses serve node ports, by the settings and the Node's addresses.
func TestNodePortAddresses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		given  nodePortAddresses
		ofNode []netip.Addr
		want   []netip.Addr
	}{
		{"the Node's", nodePortAddresses{}, addrs("192.0.2.1", "2001:db8::1"), addrs("192.0.2.1", "2001:db8::1")},
		{"none", nodePortAddresses{}, nil, nil},
		{"primary IP", nodePortAddresses{primaryIP: addrs("198.51.100.1")[0]}, addrs("192.0.2.1", "2001:db8::1"), addrs("198.51.100.1", "2001:db8::1")},
		{"IPv6 primary IP", nodePortAddresses{primaryIP: addrs("2001:db8::2")[0]}, addrs("192.0.2.1", "2001:db8::1"), addrs("192.0.2.1", "2001:db8::2")},
		{"primary IP without a Node", nodePortAddresses{primaryIP: addrs("198.51.100.1")[0]}, nil, addrs("198.51.100.1")},
		{
			"interfaces",
			nodePortAddresses{primaryIP: addrs("198.51.100.1")[0], interfaces: &interfaceAddresses{current: addrs("203.0.113.1")}},
			addrs("192.0.2.1", "2001:db8::1"), addrs("203.0.113.1"),
		},
		{"loopback primary IP", nodePortAddresses{primaryIP: addrs("127.0.0.1")[0]}, addrs("192.0.2.1", "2001:db8::1"), addrs("2001:db8::1")},
		{
			"interfaces and the Node's",
			nodePortAddresses{interfaces: &interfaceAddresses{current: addrs("192.0.2.1", "203.0.113.1")}, withNode: true},
			addrs("192.0.2.1", "2001:db8::1"), addrs("192.0.2.1", "203.0.113.1", "2001:db8::1"),
		},
		{
			"interfaces and a loopback primary IP",
			nodePortAddresses{primaryIP: addrs("127.0.0.1")[0], interfaces: &interfaceAddresses{current: addrs("203.0.113.1")}, withNode: true},
			addrs("192.0.2.1", "2001:db8::1"), addrs("203.0.113.1", "2001:db8::1"),
		},
	} {
		ofNode := slices.Clone(tc.ofNode)
		if got := tc.given.choose(tc.given.primary(tc.ofNode)); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
		if !slices.Equal(tc.ofNode, ofNode) {
			t.Errorf("%s: the Node's addresses were modified", tc.name)
		}
	}
}

// newDirWithInterfaces returns a directory source with interface addresses, and its world.
func newDirWithInterfaces(t *testing.T, interfaces *interfaceAddresses) *world {
	t.Helper()
	files := manifests{t.TempDir()}
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: files, there: map[objectKey]runtime.Object{}}
	d, err := newDir(files.path, render.Node{Name: "n1"}, nodePortAddresses{interfaces: interfaces}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	w.source = d
	return w
}

// TestInterfaceAddressUpdates: Updates of a source with interface addresses have these addresses, and a change of the
// addresses gives an Update with all Services.
func TestInterfaceAddressUpdates(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.1/24")
	a := m.follow("192.0.2.0/24")
	w := newDirWithInterfaces(t, a)
	expect := func(services []string, removed int, at ...string) {
		t.Helper()
		u, err := w.next(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range u.Services {
			names = append(names, s.Name)
		}
		if !slices.Equal(names, services) || len(u.Removed) != removed || !slices.Equal(u.Node.Addresses, addrs(at...)) {
			t.Fatalf("Update %v, want Services %v, %d removed, addresses %v", u, services, removed, at)
		}
	}
	silent := func() {
		t.Helper()
		if u, err := w.next(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Update %v, error %v", u, err)
		}
	}
	follow := func(count int) {
		for len(a.get()) != count {
			time.Sleep(time.Millisecond)
		}
	}

	// A change of the addresses gives no Update before the source's first one.
	path := w.cluster.(manifests).path
	f, err := os.Create(filepath.Join(path, "b.yaml"))
	w.must(err)
	silent()
	m.add("192.0.2.2/24")
	follow(2)
	silent()
	_, err = f.WriteString(serviceYAML("b", "10.96.0.2") + "---\n" + serviceYAML("a", "10.96.0.1"))
	w.must(err)
	w.must(f.Close())
	expect([]string{"a", "b"}, 0, "192.0.2.1", "192.0.2.2")
	silent()

	// Other Updates have only what changed.
	writeFile(t, filepath.Join(path, "b.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("c", "10.96.0.3"))
	expect([]string{"c"}, 1, "192.0.2.1", "192.0.2.2")
	silent()

	// The Node's addresses do not serve node ports, but source ranges depend on them, and its other facts are used too, also
	// after a change of the interfaces.
	w.put(aNode("z", "198.51.100.1"))
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.2")
	w.put(aNode("z", "198.51.100.2"))
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.2")
	w.put(with(aNode("z", "198.51.100.2"), func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}} }))
	if u, err := w.next(10 * time.Second); err != nil || !u.NotEligible || len(u.Services) > 0 {
		t.Errorf("Update %v, error %v", u, err)
	}
	m.add("192.0.2.9/24")
	if u, err := w.next(10 * time.Second); err != nil || !u.NotEligible || u.Node.Zone != "z" || u.Seen.IsZero() ||
		!slices.Equal(u.Node.IPs, addrs("198.51.100.2")) {
		t.Errorf("Update %v, error %v", u, err)
	}
	w.put(aNode("z"))
	if u, err := w.next(10 * time.Second); err != nil || u.NotEligible {
		t.Errorf("Update %v, error %v", u, err)
	}
	silent()

	// An address that is added or removed gives all Services.
	m.add("192.0.2.3/24")
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.9")
	m.del("192.0.2.2/24")
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.3", "192.0.2.9")
	silent()

	// If a Service and the addresses change at once, no change is lost and all Services are returned.
	m.add("192.0.2.4/24")
	follow(4)
	writeFile(t, filepath.Join(path, "b.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("c", "10.96.0.4"))
	seen := map[string]netip.Addr{}
	for seen["c"] != addrs("10.96.0.4")[0] {
		u, err := w.next(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range u.Services {
			seen[s.Name] = s.ClusterIPs[0]
		}
		if len(u.Node.Addresses) != 4 {
			t.Errorf("addresses %v", u.Node.Addresses)
		}
	}
	if _, ok := seen["a"]; !ok {
		t.Errorf("Services %v", seen)
	}
	silent()
}
