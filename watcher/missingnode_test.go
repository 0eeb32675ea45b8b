package watcher

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"nfproxy/logtest"
	"nfproxy/render"
)

// newAPIWithout returns an API source that has received all objects except a Node, and its log. It has no connection.
func newAPIWithout(nodePorts nodePortAddresses, services ...*corev1.Service) (*API, *logtest.Buffer) {
	var log logtest.Buffer
	c := newCatalog(slog.New(slog.NewTextHandler(&log, nil)))
	c.nodeRequired, c.nodePorts = true, nodePorts
	a := &API{node: render.Node{Name: "n1"}, catalog: c, wake: make(chan struct{}, 1), unsynced: map[string]bool{}}
	for _, s := range services {
		a.change(time.Now(), func(c *catalog) { c.put(object{service: reduceService(s, render.Instance{})}) })
	}
	return a, &log
}

func (a *API) putNode(n *corev1.Node) {
	a.change(time.Now(), func(c *catalog) { c.put(object{node: reduceNode(n)}) })
}

func (a *API) removeNode() {
	a.change(time.Now(), func(c *catalog) { c.remove(objectKey{kind: nodeKind, name: "n1"}) })
}

// TestNodeDeleted: after its deletion the Node's last state stays in use, including its eligibility.
func TestNodeDeleted(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		change      func(*corev1.Node)
		notEligible bool
	}{
		{"eligible", func(*corev1.Node) {}, false},
		{"tainted", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted}} }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, log := newAPIWithout(nodePortAddresses{})
			a.putNode(with(aNode("z1", "192.0.2.1"), tt.change))
			first, _ := a.update()
			if first.NotEligible != tt.notEligible {
				t.Errorf("not eligible: %v", first.NotEligible)
			}
			a.removeNode()
			a.removeNode() // as after a new list
			if u, changed := a.update(); changed || u.NotEligible != tt.notEligible || !u.Node.Equal(first.Node) {
				t.Errorf("after the deletion: changed %v, %v", changed, u)
			}
			if lines := log.Lines("was deleted; its last state stays in use"); len(lines) != 1 {
				t.Errorf("logged %q", lines)
			}
			a.putNode(with(aNode("z1", "192.0.2.1"), tt.change))
			if u, changed := a.update(); changed {
				t.Errorf("after it was created again: %v", u)
			}
			a.putNode(aNode("z1", "192.0.2.2"))
			if u, changed := a.update(); !changed || u.NotEligible || !slices.Equal(u.Node.Addresses, addrs("192.0.2.2")) {
				t.Errorf("after it was changed: %v", u)
			}
		})
	}
}

// TestNodeMissing: if there is no Node object when the source starts, node ports are served at the addresses of the default
// routes until the Node has an address. The node is not eligible, and one line is logged.
func TestNodeMissing(t *testing.T) {
	m := newMachine(t)
	m.addUplink("eth0", 100, "192.0.2.10/24", "2001:db8::10/64")
	a, log := newAPIWithout(nodePortAddresses{defaultRoutes: m.defaultRoutes()}, aService("web", "10.96.1.1"))
	expect := func(what string, notEligible bool, services int, want ...string) {
		t.Helper()
		u, changed := a.update()
		if !changed || u.NotEligible != notEligible || len(u.Services) != services || !slices.Equal(u.Node.Addresses, addrs(want...)) {
			t.Errorf("%s: changed %v, %v, want addresses %v", what, changed, u, want)
		}
	}
	expect("without a Node", true, 1, "192.0.2.10", "2001:db8::10")
	if u, changed := a.update(); changed {
		t.Errorf("again: %v", u)
	}
	a.putNode(aNode(""))
	expect("Node without addresses", false, 0, "192.0.2.10", "2001:db8::10")
	a.putNode(aNode("", "198.51.100.1"))
	expect("Node with an address", false, 1, "198.51.100.1")
	a.removeNode()
	if u, changed := a.update(); changed {
		t.Errorf("Node deleted: %v", u)
	}
	lines := log.Lines("level=WARN", `"the Node object of this machine does not exist"`, "node=n1", `"[192.0.2.10 2001:db8::10]"`)
	if len(lines) != 1 || len(log.Lines("does not exist")) != 1 {
		t.Errorf("logged:\n%s", log)
	}
}

// TestNodeMissingWithoutRoute: without a Node object and without a default route of a family, node ports of the family are served at
// all local addresses, as long as the Node has no address of the family.
func TestNodeMissingWithoutRoute(t *testing.T) {
	m := newMachine(t)
	m.add("203.0.113.10/32", "2001:db8:cb::10/128")
	m.addUplink("eth0", 100, "192.0.2.10/24")
	nodePort := with(aService("np", "10.96.1.2"), func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ClusterIPs, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, []string{"10.96.1.2", "fd00::2"}, 30001
	})
	a, _ := newAPIWithout(nodePortAddresses{defaultRoutes: m.defaultRoutes(), interfaces: m.follow()}, nodePort)
	for _, step := range []struct {
		node *corev1.Node
		all  render.Families
		want []string
	}{
		{nil, render.Families{IPv6: true}, []string{"192.0.2.10", "2001:db8:cb::10"}},
		{aNode(""), render.Families{IPv6: true}, []string{"192.0.2.10", "2001:db8:cb::10"}},
		{aNode("", "2001:db8::1"), render.Families{IPv4: true}, []string{"192.0.2.10", "203.0.113.10", "2001:db8::1"}},
	} {
		if step.node != nil {
			a.putNode(step.node)
		}
		u, _ := a.update()
		if got := withoutGenerated(u.Node.Addresses); !slices.Equal(got, addrs(step.want...)) || u.Node.AllAddresses != step.all {
			t.Errorf("addresses %v, all of %v, want %v, %v", got, u.Node.AllAddresses, step.want, step.all)
		}
	}
}

// TestNodeMissingWithRanges: with ranges for node ports the default routes have no effect, even if no interface has an
// address inside the ranges.
func TestNodeMissingWithRanges(t *testing.T) {
	m := newMachine(t)
	m.addUplink("eth0", 100, "192.0.2.10/24")
	nodePorts := m.nodePorts("203.0.113.0/24", "2001:db8:cb::/64")
	nodePorts.defaultRoutes = m.defaultRoutes()
	a, log := newAPIWithout(nodePorts)
	if u, changed := a.update(); !changed || len(u.Node.Addresses) > 0 {
		t.Errorf("changed %v, %v", changed, u)
	}
	if len(log.Lines("level=WARN", "does not exist", "addresses=[]")) != 1 {
		t.Errorf("logged:\n%s", log)
	}
}

// TestNodeMissingAtStart: a Node that exists when the source starts provides all addresses, and none if it has none.
func TestNodeMissingAtStart(t *testing.T) {
	m := newMachine(t)
	m.addUplink("eth0", 100, "192.0.2.10/24")
	a, log := newAPIWithout(nodePortAddresses{defaultRoutes: m.defaultRoutes()})
	a.putNode(aNode(""))
	if u, changed := a.update(); !changed || len(u.Node.Addresses) > 0 {
		t.Errorf("changed %v, %v", changed, u)
	}
	if log.String() != "" {
		t.Errorf("logged:\n%s", log)
	}
}

// TestDefaultRoutes: of each family, the address of the interface with the preferred default route.
func TestDefaultRoutes(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*machine)
		want []string
	}{
		{"no default route", func(m *machine) { m.add("192.0.2.1/24", "2001:db8::1/64") }, nil},
		{"the first address, no link-local one", func(m *machine) {
			m.addUplink("eth0", 100, "169.254.1.1/16", "192.0.2.10/24", "192.0.2.11/24", "fe80::10/64", "2001:db8::10/64")
		}, []string{"192.0.2.10", "2001:db8::10"}},
		{"the lowest metric", func(m *machine) {
			m.addUplink("eth0", 200, "192.0.2.10/24", "2001:db8::10/64")
			m.addUplink("eth1", 100, "198.51.100.10/24", "2001:db8:51::10/64")
		}, []string{"198.51.100.10", "2001:db8:51::10"}},
		{"another interface for each family", func(m *machine) {
			m.addUplink("eth0", 100, "192.0.2.10/24")
			m.addUplink("eth1", 100, "2001:db8:51::10/64")
		}, []string{"192.0.2.10", "2001:db8:51::10"}},
		{"the preferred route's interface has no address", func(m *machine) {
			m.addUplink("eth0", 200, "192.0.2.10/24")
			m.route(m.addLink("eth1"), netlink.FAMILY_V4, 100, "")
		}, []string{"192.0.2.10"}},
		{"the source address of the route", func(m *machine) {
			m.add("203.0.113.10/32")
			eth0 := m.addLink("eth0")
			m.addTo(eth0, "192.0.2.10/24")
			m.route(eth0, netlink.FAMILY_V4, 100, "203.0.113.10")
		}, []string{"203.0.113.10"}},
		{"several next hops", func(m *machine) {
			eth0, eth1 := m.addLink("eth0"), m.addLink("eth1")
			m.addTo(eth0, "192.0.2.10/24")
			m.addTo(eth1, "198.51.100.10/24")
			m.must(m.routing.RouteAdd(&netlink.Route{Dst: everything(netlink.FAMILY_V4), MultiPath: []*netlink.NexthopInfo{
				{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP("192.0.2.1")}, {LinkIndex: eth1.Attrs().Index, Gw: net.ParseIP("198.51.100.1")},
			}}))
		}, []string{"192.0.2.10"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			tt.set(m)
			got, err := m.defaultRoutes().addresses()
			if err != nil || !slices.Equal(got, addrs(tt.want...)) {
				t.Errorf("%v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// defaultRoutes returns the default routes of the machine.
func (m *machine) defaultRoutes() *defaultRoutes {
	m.Helper()
	var d *defaultRoutes
	m.must(m.space.Do(func() (err error) {
		d, err = openDefaultRoutes(false)
		return err
	}))
	m.Cleanup(func() { m.must(d.close()) })
	return d
}

// addUplink adds an interface with addresses and a default route in each of their families.
func (m *machine) addUplink(name string, metric int, addrs ...string) {
	m.Helper()
	link := m.addLink(name)
	m.addTo(link, addrs...)
	has := map[int]bool{}
	for _, a := range addrs {
		family := netlink.FAMILY_V6
		if netip.MustParsePrefix(a).Addr().Is4() {
			family = netlink.FAMILY_V4
		}
		if !has[family] {
			has[family] = true
			m.route(link, family, metric, "")
		}
	}
}

// addLink adds an interface that is up.
func (m *machine) addLink(name string) netlink.Link {
	m.Helper()
	peer := name + "-peer"
	m.must(m.routing.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer}))
	for _, n := range []string{peer, name} {
		link, err := m.routing.LinkByName(n)
		m.must(err)
		m.must(m.routing.LinkSetUp(link))
	}
	link, err := m.routing.LinkByName(name)
	m.must(err)
	return link
}

// addTo gives an interface addresses, which are usable at once.
func (m *machine) addTo(link netlink.Link, addrs ...string) {
	m.Helper()
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		m.must(err)
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		m.must(m.routing.AddrAdd(link, addr))
	}
}

// route adds a default route over an interface; source may be empty.
func (m *machine) route(link netlink.Link, family, metric int, source string) {
	m.Helper()
	m.must(m.routing.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: everything(family), Priority: metric, Src: net.ParseIP(source)}))
}

func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// everything is the destination of default routes.
func everything(family int) *net.IPNet {
	if family == netlink.FAMILY_V4 {
		return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}
