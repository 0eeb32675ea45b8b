//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
)

// family holds what differs between the address families.
type family struct {
	everywhere netip.Prefix
	node       netip.Prefix // the node's end of each pod link
	pod        netip.Addr   // next hop to the pod: it has a neighbour entry, but is no address of the pod
}

var (
	ipv4 = family{
		everywhere: netip.MustParsePrefix("0.0.0.0/0"),
		node:       netip.MustParsePrefix("169.254.1.1/32"),
		pod:        netip.MustParseAddr("169.254.1.2"),
	}
	ipv6 = family{
		everywhere: netip.MustParsePrefix("::/0"),
		node:       netip.MustParsePrefix("fe80::1/64"),
		pod:        netip.MustParseAddr("fe80::2"),
	}
)

// Pod is a network namespace with addresses that the node routes to.
type Pod struct {
	Name  string
	Addrs []netip.Addr
	*Namespace
	nodeLink string
}

// AddPod adds a pod with one or more addresses, of either or both families and
// in any subnets. The first address of each family is the default source of the
// pod's own connections. The name appears only in error messages. When AddPod
// returns, packets can be sent and received.
func (w *Network) AddPod(name string, addrs ...netip.Addr) (*Pod, error) {
	p, err := w.addPod(name, addrs)
	if err != nil {
		return nil, fmt.Errorf("add pod %s: %w", name, err)
	}
	return p, nil
}

func (w *Network) addPod(name string, addrs []netip.Addr) (*Pod, error) {
	addrs, err := checkAddrs(addrs, w.ipv6)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, errors.New("no address")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.routes == nil {
		return nil, errors.New("network is closed")
	}
	n, err := NewNamespace()
	if err != nil {
		return nil, err
	}
	w.links++
	p := &Pod{Name: name, Addrs: addrs, Namespace: n, nodeLink: fmt.Sprintf("pod%d", w.links)}
	if err := w.connect(p); err != nil {
		return nil, errors.Join(err, w.disconnect(p))
	}
	w.pods = append(w.pods, p)
	return p, nil
}

// RemovePod deletes the pod's link, addresses and routes, and closes its
// namespace. When it returns, the node no longer has a route to the pod.
func (w *Network) RemovePod(p *Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.Index(w.pods, p)
	if i < 0 {
		return fmt.Errorf("remove pod %s: not in this network", p.Name)
	}
	w.pods = slices.Delete(w.pods, i, i+1)
	if err := w.disconnect(p); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.Name, err)
	}
	return nil
}

// disconnect deletes the pod's link and closes its namespace.
func (w *Network) disconnect(p *Pod) error {
	return errors.Join(deleteLink(w.routes, p.nodeLink), p.Close())
}

// connect gives the pod a link to the node, with addresses, routes and neighbours.
func (w *Network) connect(p *Pod) error {
	if err := p.set(parameters(podSysctls4, podSysctls6, w.ipv6)...); err != nil {
		return err
	}
	routes, err := p.routing()
	if err != nil {
		return err
	}
	defer routes.Close()
	node, pod, err := w.addLink(p.nodeLink, p.Namespace, routes)
	if err != nil {
		return err
	}
	for _, f := range w.families() {
		addrs := f.of(p.Addrs)
		if len(addrs) == 0 {
			continue
		}
		if err := f.setNode(node, pod, addrs, f.first(w.addrs)); err != nil {
			return err
		}
		if err := f.setPod(pod, node, addrs); err != nil {
			return err
		}
	}
	return nil
}

// setNode routes addrs from the node to the pod. All routes have the same next
// hop, which needs one neighbour entry. The address of the node's end has link
// scope, so that neither masquerading nor an ICMP error uses it as a source.
func (f family) setNode(node, pod *link, addrs []netip.Addr, source netip.Addr) error {
	if err := node.addAddr(f.node, netlink.SCOPE_LINK); err != nil {
		return err
	}
	if err := node.addNeighbour(f.pod, pod.mac); err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := node.addVia(host(addr), f.pod, source); err != nil {
			return err
		}
	}
	return nil
}

// setPod gives the pod addrs and a default route to the node.
func (f family) setPod(pod, node *link, addrs []netip.Addr) error {
	for _, addr := range addrs {
		if err := pod.addHost(addr); err != nil {
			return err
		}
	}
	gateway := f.node.Addr()
	if err := pod.addNeighbour(gateway, node.mac); err != nil {
		return err
	}
	if gateway.Is4() { // IPv6 has fe80::/64 on every link
		route := &netlink.Route{Dst: ipNet(host(gateway)), Scope: netlink.SCOPE_LINK, Src: addrs[0].AsSlice()}
		if err := pod.addRoute(route); err != nil {
			return err
		}
	}
	return pod.addVia(f.everywhere, gateway, addrs[0])
}

// of returns the addresses of the family, in their order.
func (f family) of(addrs []netip.Addr) []netip.Addr {
	var own []netip.Addr
	for _, addr := range addrs {
		if addr.Is4() == f.pod.Is4() {
			own = append(own, addr)
		}
	}
	return own
}

// first returns the first address of the family, or the zero address.
func (f family) first(addrs []netip.Addr) netip.Addr {
	if own := f.of(addrs); len(own) > 0 {
		return own[0]
	}
	return netip.Addr{}
}
