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
	"nfproxy/nft"
	"nfproxy/render"
)

// TestNodePortAddresses: which addresses serve node ports, by the settings, the Node's addresses and those of the machine.
func TestNodePortAddresses(t *testing.T) {
	ofNode, none := addrs("192.0.2.1", "2001:db8::1"), []netip.Addr(nil)
	local := &interfaceAddresses{current: localAddresses{
		ofInterfaces: addrs("169.254.1.1", "192.0.2.1", "203.0.113.1", "2001:db8::1", "fe80::1"),
		all:          addrs("169.254.1.1", "192.0.2.1", "203.0.113.8", "2001:db8::1", "2001:db8:cb::8", "fe80::1"),
	}}
	local4, local6 := addrs("169.254.1.1", "192.0.2.1", "203.0.113.8"), addrs("2001:db8::1", "2001:db8:cb::8", "fe80::1")
	ip := func(text string) netip.Addr { return netip.MustParseAddr(text) }
	ranges := func(only bool, texts ...string) nodePortAddresses {
		return nodePortAddresses{ranges: prefixes(texts...), rangesOnly: only, interfaces: local}
	}
	both, v4, v6 := render.Families{IPv4: true, IPv6: true}, render.Families{IPv4: true}, render.Families{IPv6: true}
	for _, tc := range []struct {
		name   string
		given  nodePortAddresses
		ofNode []netip.Addr
		want   []netip.Addr
		all    render.Families
	}{
		{"the Node's", nodePortAddresses{interfaces: local}, ofNode, ofNode, render.Families{}},
		{"no Node", nodePortAddresses{interfaces: local}, none, slices.Concat(local4, local6), both},
		{"an IPv4 Node", nodePortAddresses{interfaces: local}, ofNode[:1], slices.Concat(ofNode[:1], local6), v6},
		{"an IPv6 Node", nodePortAddresses{interfaces: local}, ofNode[1:], slices.Concat(local4, ofNode[1:]), v4},
		{"nothing is known of the machine", nodePortAddresses{}, none, none, render.Families{}},
		{"primary IP", nodePortAddresses{interfaces: local, primaryIP: ip("198.51.100.1")}, ofNode, addrs("198.51.100.1", "2001:db8::1"), render.Families{}},
		{"IPv6 primary IP", nodePortAddresses{interfaces: local, primaryIP: ip("2001:db8::2")}, ofNode, addrs("192.0.2.1", "2001:db8::2"), render.Families{}},
		{"primary IP without a Node", nodePortAddresses{interfaces: local, primaryIP: ip("198.51.100.1")}, none,
			slices.Concat(addrs("198.51.100.1"), local6), v6},
		{"loopback primary IP", nodePortAddresses{interfaces: local, primaryIP: ip("127.0.0.1")}, ofNode, slices.Concat(local4, ofNode[1:]), v4},

		{"all", ranges(true, "0.0.0.0/0", "::/0"), ofNode, slices.Concat(local4, local6), both},
		{"all and another range", ranges(true, "203.0.113.0/24", "0.0.0.0/0", "2001:db8::/64"), ofNode, slices.Concat(local4, ofNode[1:]), v4},
		{"the Node's and all", ranges(false, "0.0.0.0/0", "::/0"), addrs("198.51.100.1"), slices.Concat(local4, local6), both},
		{"ranges", ranges(true, "203.0.113.0/24", "fe80::/10"), ofNode, addrs("203.0.113.1", "fe80::1"), render.Families{}},
		{"a link-local range", ranges(true, "169.254.0.0/16", "2001:db8:cb::/64"), ofNode, addrs("169.254.1.1"), render.Families{}},
		{"a range of one family", ranges(true, "203.0.113.0/24"), ofNode, slices.Concat(addrs("203.0.113.1"), local6), v6},
		{"loopback ranges", ranges(true, "127.0.0.0/8", "::1/128"), ofNode, none, render.Families{}},
		{"the Node's and ranges", ranges(false, "203.0.113.0/24"), ofNode, addrs("192.0.2.1", "203.0.113.1", "2001:db8::1"), render.Families{}},
		{"an IPv4 Node and ranges", ranges(false, "203.0.113.0/24"), ofNode[:1], slices.Concat(addrs("192.0.2.1", "203.0.113.1"), local6), v6},
		{"an IPv4 Node and IPv6 ranges", ranges(false, "fe80::/10"), ofNode[:1], addrs("192.0.2.1", "fe80::1"), render.Families{}},
	} {
		given := slices.Clone(tc.ofNode)
		got, all := tc.given.choose(tc.given.primary(tc.ofNode), map[nft.Family]int{nft.IPv4: 1, nft.IPv6: 1})
		if !slices.Equal(got, tc.want) || all != tc.all {
			t.Errorf("%s: %v, all addresses of %v, want %v, %v", tc.name, got, all, tc.want, tc.all)
		}
		if !slices.Equal(tc.ofNode, given) {
			t.Errorf("%s: the Node's addresses were modified", tc.name)
		}
	}
}

// TestLocalAddressesUnused: in a family in which no Service has node ports, the local addresses and their changes are ignored. They
// matter from the first such Service to the removal of the last one.
func TestLocalAddressesUnused(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.1/24", "2001:db8::1/64")
	nodePorts := nodePortAddresses{interfaces: m.follow()}
	a, log := newAPIWithout(nodePorts, aService("web", "10.96.1.1"))
	a.putNode(aNode("", "192.0.2.1"))
	expect := func(what string, services []string, want ...string) {
		t.Helper()
		u, changed := a.update()
		var names []string
		for _, s := range u.Services {
			names = append(names, s.Name)
		}
		if !changed || !slices.Equal(names, services) || !slices.Equal(u.Node.Addresses, addrs(want...)) || u.Node.AllAddresses != (render.Families{IPv6: true}) {
			t.Errorf("%s: changed %v, %v, want addresses %v", what, changed, u, want)
		}
	}
	// The kernel notifies of an IPv6 address before it adds the local route, so one new address can give two changes.
	addLocal := func(addr string, want ...string) {
		t.Helper()
		m.add(addr)
		m.become(nodePorts.interfaces, addrs(want...), addrs(want...))
	}
	expect("at first", []string{"web"}, "192.0.2.1")
	addLocal("2001:db8::2/64", "192.0.2.1", "2001:db8::1", "2001:db8::2")
	if u, changed := a.update(); changed {
		t.Errorf("IPv6 address added: %v", u)
	}

	nodePort := with(aService("np", "10.96.1.2"), func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, []string{"10.96.1.2", "fd00::2"}, 30001
	})
	put := func(s *corev1.Service) {
		a.change(time.Now(), func(c *catalog) { c.put(object{service: reduceService(s, render.Instance{})}) })
	}
	put(nodePort)
	expect("IPv6 node port", []string{"np"}, "192.0.2.1", "2001:db8::1", "2001:db8::2")
	addLocal("2001:db8::3/64", "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3")
	expect("another IPv6 address", []string{"np"}, "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3")
	put(with(nodePort, func(s *corev1.Service) { s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1] }))
	expect("IPv4 node port", []string{"np"}, "192.0.2.1")
	put(nodePort)
	put(nodePort)
	expect("IPv6 node port again", []string{"np"}, "192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8::3")
	a.change(time.Now(), func(c *catalog) { c.remove(objectKey{serviceKind, nodePort.Namespace, "np"}) })
	expect("removed", nil, "192.0.2.1")
	if lines := log.Lines("the addresses of node ports changed"); len(lines) != 5 {
		t.Errorf("logged %q", lines)
	}
}

// newDirWithInterfaces returns a directory source with interface addresses, and its world.
func newDirWithInterfaces(t *testing.T, nodePorts nodePortAddresses) *world {
	t.Helper()
	files := manifests{t.TempDir()}
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: files, there: map[objectKey]runtime.Object{}}
	d, err := newDir(files.path, render.Node{Name: "n1"}, nodePorts, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	w.source = d
	return w
}

// TestInterfaceAddressUpdates: Updates of a source with interface addresses have these addresses, and a change of the
// addresses gives an Update with all Services that have node ports.
func TestInterfaceAddressUpdates(t *testing.T) {
	m := newMachine(t)
	m.add("192.0.2.1/24")
	nodePorts := m.nodePorts("192.0.2.0/24")
	w := newDirWithInterfaces(t, nodePorts)
	expect := func(services []string, removed int, at ...string) {
		t.Helper()
		u, err := w.next(patience)
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
		for len(nodePorts.interfaces.get().ofInterfaces) != count {
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
	_, err = f.WriteString(serviceYAML("b", "10.96.0.2") + "---\n" + nodePortYAML("a", "10.96.0.1"))
	w.must(err)
	w.must(f.Close())
	expect([]string{"a", "b"}, 0, "192.0.2.1", "192.0.2.2")
	silent()

	// Other Updates have only what changed.
	writeFile(t, filepath.Join(path, "b.yaml"), nodePortYAML("a", "10.96.0.1")+"---\n"+serviceYAML("c", "10.96.0.3"))
	expect([]string{"c"}, 1, "192.0.2.1", "192.0.2.2")
	silent()

	// The Node's addresses do not serve node ports, but source ranges depend on them, and its other facts are used too, also
	// after a change of the interfaces.
	w.put(aNode("z", "198.51.100.1"))
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.2")
	w.put(aNode("z", "198.51.100.2"))
	expect([]string{"a", "c"}, 0, "192.0.2.1", "192.0.2.2")
	w.put(with(aNode("z", "198.51.100.2"), func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}} }))
	if u, err := w.next(patience); err != nil || !u.NotEligible || len(u.Services) > 0 {
		t.Errorf("Update %v, error %v", u, err)
	}
	m.add("192.0.2.9/24")
	if u, err := w.next(patience); err != nil || !u.NotEligible || len(u.Services) != 1 || u.Node.Zone != "z" || u.Seen.IsZero() ||
		!slices.Equal(u.Node.IPs, addrs("198.51.100.2")) {
		t.Errorf("Update %v, error %v", u, err)
	}
	w.put(aNode("z"))
	if u, err := w.next(patience); err != nil || u.NotEligible {
		t.Errorf("Update %v, error %v", u, err)
	}
	silent()

	// An address that is added or removed gives the Services with node ports.
	m.add("192.0.2.3/24")
	expect([]string{"a"}, 0, "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.9")
	m.del("192.0.2.2/24")
	expect([]string{"a"}, 0, "192.0.2.1", "192.0.2.3", "192.0.2.9")
	silent()

	// If a Service and the addresses change at once, no change is lost.
	m.add("192.0.2.4/24")
	follow(4)
	writeFile(t, filepath.Join(path, "b.yaml"), nodePortYAML("a", "10.96.0.1")+"---\n"+serviceYAML("c", "10.96.0.4"))
	seen := map[string]netip.Addr{}
	for seen["c"] != addrs("10.96.0.4")[0] {
		u, err := w.next(patience)
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
