package foreignload

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"nfproxy/integration/cluster"
)

// TestInterfaces: with node ports at the addresses of a range, addresses and interfaces come and go hundreds of times a second.
// Connections to an address that stays and to a cluster IP do not fail, and in the end node ports are served at exactly the
// addresses that are left.
func TestInterfaces(t *testing.T) {
	const links, perLink = 4, 10
	n := newNode(t)
	stays := addLink(t, "stays")
	addAddr(t, stays, "198.18.0.1/32")
	var comes []netlink.Link
	for i := range links {
		comes = append(comes, addLink(t, fmt.Sprint("comes-", i)))
	}
	n.start("--nodeport-addresses", "198.18.0.0/15")
	n.awaitServed("198.18.0.1:30001")
	calm := n.awaitServed(other)
	clients := n.clients()
	toNodePort := cluster.StartClients(t, 4, n.client.Namespace, "198.18.0.1:30001")
	clients.AwaitMore(t, 20)

	var running sync.WaitGroup
	changes := make([]int, links+1)
	end := time.Now().Add(5 * time.Second)
	for i, link := range comes {
		running.Go(func() {
			for ; time.Now().Before(end) || changes[i] < 1000/links; time.Sleep(time.Millisecond) {
				addr := fmt.Sprintf("198.18.%d.%d/32", i+1, changes[i]%perLink)
				addAddr(t, link, addr)
				deleteAddr(t, link, addr)
				changes[i] += 2
			}
		})
	}
	running.Go(func() { // whole interfaces, with their addresses
		for ; time.Now().Before(end); time.Sleep(time.Millisecond) {
			link := addLink(t, "gone")
			addAddr(t, link, "198.18.9.1/32")
			if err := netlink.LinkDel(link); err != nil {
				t.Error(err)
			}
			changes[links] += 2
		}
	})
	running.Wait()
	n.awaitText(calm)
	connections, nodePort := n.wantNoFailure(clients), n.wantNoFailure(toNodePort)
	all := 0
	for _, c := range changes {
		all += c
	}
	t.Logf("%d changes of addresses and %d of interfaces, %d changes programmed, %d connections, %d to the node port", all, changes[links],
		strings.Count(n.daemon.Log.String(), "the addresses of node ports changed"), connections, nodePort)
	n.stop()
}

// addLink adds an interface to the node, until the end of the test.
func addLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) }) // fails if the test has deleted it
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return link
}

func addAddr(t *testing.T, link netlink.Link, addr string) {
	if err := netlink.AddrAdd(link, parseAddr(addr)); err != nil {
		t.Errorf("add %s: %v", addr, err)
	}
}

func deleteAddr(t *testing.T, link netlink.Link, addr string) {
	if err := netlink.AddrDel(link, parseAddr(addr)); err != nil {
		t.Errorf("delete %s: %v", addr, err)
	}
}

func parseAddr(text string) *netlink.Addr {
	p := netip.MustParsePrefix(text)
	a, err := netlink.ParseAddr(p.String())
	if err != nil {
		panic(err)
	}
	return a
}
