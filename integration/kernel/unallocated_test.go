package kernel

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/sandbox"
)

// unallocatedTimeout is how long a connection waits that must be dropped.
const unallocatedTimeout = 300 * time.Millisecond

// TestUnallocatedAddresses: packets to an address of the service CIDRs that no Service has are dropped where they leave this node
// untranslated, and nowhere else.
func TestUnallocatedAddresses(t *testing.T) {
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		w := newTrafficNode(t, f)
		free := w.at("free", 80)
		answers := func(t *testing.T, from, want string) {
			t.Helper()
			got, err := connect(w.from(from), nft.TCP, w.source(from), free, connectTimeout)
			if err != nil || got.endpoint.String() != want {
				t.Errorf("from %s: %v answers, %v, want %s", from, got.endpoint, err, want)
			}
		}
		dropped := func(t *testing.T, from string) {
			t.Helper()
			if got, err := connect(w.from(from), nft.TCP, w.source(from), free, unallocatedTimeout); !isTimeout(err) {
				t.Errorf("from %s: %v answers, %v, want a timeout", from, got.endpoint, err)
			}
		}

		t.Run(f.String()+"/translated by another program", func(t *testing.T) {
			w.nft(fmt.Sprintf(`table %[1]s other { chain nat { type nat hook prerouting priority -90; %[1]s daddr %[2]s tcp dport 80 dnat to %[3]s; }; }`,
				f, w.addr("free"), w.at("a", 8080)), "-f", "-")
			answers(t, "client", w.at("a", 8080))
			answers(t, "outside", w.at("a", 8080))
			w.nft("", "delete", "table", f.String(), "other")
			dropped(t, "client")
		})

		t.Run(f.String()+"/bound on the node", func(t *testing.T) {
			addr := netip.MustParseAddr(w.addr("free"))
			bound := &netlink.Addr{IPNet: netlink.NewIPNet(addr.AsSlice()), Flags: unix.IFA_F_NODAD}
			onLoopback := func(change func(netlink.Link, *netlink.Addr) error) {
				t.Helper()
				err := w.node.Do(func() error {
					lo, err := netlink.LinkByName("lo")
					if err != nil {
						return err
					}
					return change(lo, bound)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			onLoopback(netlink.AddrAdd)
			w.serve(&sandbox.Pod{Namespace: w.node}, netip.MustParseAddrPort(free))
			answers(t, "client", free)
			answers(t, "outside", free)
			dropped(t, "node")
			onLoopback(netlink.AddrDel)
			dropped(t, "client")
		})

		t.Run(f.String()+"/beside a masquerade chain", func(t *testing.T) {
			before := newTestNode(t).addNetwork() // the chain of the network plugin is there first
			before.nft(fmt.Sprintf(`table %s plugin { chain nat { type nat hook postrouting priority 100; masquerade; }; }`, f), "-f", "-")
			w := *w
			w.testNode = before
			reached := before.pod("free", 80, w.addr("free"))
			client := before.pod("client", 0, w.addr("client"))
			if _, err := connect(client.Namespace, nft.TCP, "", free, connectTimeout); err != nil {
				t.Fatalf("without rules, %s does not answer: %v", reached.Name, err)
			}
			before.reconcile()
			if got, err := connect(client.Namespace, nft.TCP, "", free, unallocatedTimeout); !isTimeout(err) {
				t.Errorf("%v answers, %v, want a timeout", got, err)
			}
		})
	}
}
