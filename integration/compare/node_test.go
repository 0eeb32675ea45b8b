package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/sandbox"
)

const (
	nodeName  = "node-b"
	apiLink   = "api0"  // on the node
	hubLink   = "node0" // in the namespace of the API server
	clientPod = "10.244.1.99"
)

var (
	nodeAddrs    = []netip.Addr{netip.MustParseAddr("192.0.2.20"), netip.MustParseAddr("2001:db8::20")}
	backendAddrs = []string{"10.244.7.1", "10.244.7.2"}
)

// node is the node of one trial.
type node struct {
	cluster *cluster.Cluster
	t       *testing.T // the trial
	ns      *sandbox.Namespace
	client  *sandbox.Pod
	program string   // path of nfproxy
	proxy   *process // the last one that was started; a trial has the name of the proxy
}

// newNode makes a node with a client and two backends, in a new namespace. It ends with the trial.
func newNode(t *testing.T, c *cluster.Cluster, program string) *node {
	t.Helper()
	n := &node{cluster: c, t: t, program: program}
	hub, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hub.Close() })
	if n.ns, err = sandbox.NewNamespace(); err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(n.ns, nodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(network.Close(), n.disconnect(), n.ns.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := n.connect(hub); err != nil {
		t.Fatal(err)
	}
	if n.client, err = network.AddPod("client", netip.MustParseAddr(clientPod)); err != nil {
		t.Fatal(err)
	}
	for _, addr := range backendAddrs {
		backend, err := network.AddPod("backend "+addr, netip.MustParseAddr(addr))
		if err != nil {
			t.Fatal(err)
		}
		cluster.ServeGreeting(t, backend, fmt.Sprintf("%s:%d", addr, targetPort), addr)
	}
	return n
}

// connect adds a link between the node and the namespace of the API server, which is the calling thread's.
func (n *node) connect(hub *sandbox.Namespace) error {
	err := n.ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: apiLink}, PeerName: hubLink, PeerNamespace: netlink.NsFd(hub.Fd())})
	})
	if err != nil {
		return fmt.Errorf("connect the node with the API server: %w", err)
	}
	up := func(link string, source, to netip.Addr) error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: source.AsSlice(),
			Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	}
	here, there := nodeAddrs[0], cluster.NodeAddrs[0]
	return errors.Join(hub.Do(func() error { return up(hubLink, there, here) }), n.ns.Do(func() error { return up(apiLink, here, there) }))
}

// disconnect removes the link to the API server at once; the namespace may live on for a while.
func (n *node) disconnect() error {
	return n.ns.Do(func() error {
		l, err := netlink.LinkByName(apiLink)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

// received returns how many bytes the node has received from the API server, with all headers.
func (n *node) received() float64 {
	n.t.Helper()
	var bytes uint64
	err := n.ns.Do(func() error {
		l, err := netlink.LinkByName(apiLink)
		if err == nil {
			bytes = l.Attrs().Statistics.RxBytes
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return float64(bytes)
}

// start starts a proxy on the node.
func (n *node) start(proxy record.Proxy) *process {
	n.t.Helper()
	cmd := n.command(proxy)
	p := &process{t: n.t, begun: time.Now(), Process: cluster.StartProcessIn(n.t, n.ns, cmd)}
	p.watch()
	n.proxy = p
	return p
}

// command returns the command of a proxy: kube-proxy with the files and flags of kubeadm, nfproxy with its defaults.
func (n *node) command(proxy record.Proxy) *exec.Cmd {
	n.t.Helper()
	switch proxy {
	case record.Nfproxy:
		account := n.cluster.ServiceAccountConfig("kube-system", "nfproxy")
		account.Host = apiURL
		cmd := exec.Command(n.program, cluster.AgentArgs(n.cluster.Kubeconfig(account), nodeName)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		return cmd
	case record.KubeProxyNftables:
		return n.kubeProxy(cluster.NftablesMode)
	default:
		if _, err := exec.LookPath("iptables-restore"); err != nil {
			n.t.Fatalf("iptables is not installed: run `make tools` (%v)", err)
		}
		return n.kubeProxy(cluster.DefaultMode)
	}
}

func (n *node) kubeProxy(mode string) *exec.Cmd {
	n.t.Helper()
	return n.cluster.KubeProxyCommand(cluster.KubeadmConfigFiles(n.t, mode), "--config=/var/lib/kube-proxy/config.conf", "--hostname-override="+nodeName)
}

// ask connects to an address from the client, and returns the answer, or an error after a timeout.
func (n *node) ask(to string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), timeout)
	defer cancel()
	return cluster.ReadGreeting(ctx, n.client.Namespace, to)
}

// Connections are repeated until an effect shows. What passes between two of them, and how long each may take, is a share of the time
// that has passed already, so that the effect is seen at most 4 % too late and a slow proxy keeps the processors.
const (
	shortest = 5 * time.Millisecond
	longest  = 100 * time.Millisecond
)

// awaitAnswer connects until the backend with this address answers, and returns the time since begun. It reports whether that was
// within the bound.
func (n *node) awaitAnswer(begun time.Time, bound time.Duration, to, by string) (time.Duration, bool) {
	for {
		passed := time.Since(begun)
		if passed > bound {
			return passed, false
		}
		answer, err := n.ask(to, min(max(passed/50, shortest), longest))
		if err == nil && answer == by {
			return time.Since(begun), true
		}
		time.Sleep(min(passed/50, longest))
	}
}

// enough is how many connections in a row have to avoid an endpoint of two, so that it is taken for removed. By chance they do so
// once in a billion.
const enough = 30

// awaitNoAnswer connects until the backend with this address, one of two, answers no longer, and returns the time from begun to the
// first of the connections that it did not answer.
func (n *node) awaitNoAnswer(begun time.Time, bound time.Duration, to, by string) (time.Duration, bool) {
	first, others := time.Duration(0), 0
	for {
		passed := time.Since(begun)
		if passed > bound {
			return passed, false
		}
		if others == 0 {
			first = passed
		}
		answer, err := n.ask(to, longest)
		if others++; err != nil || answer == by {
			others = 0
			time.Sleep(min(passed/50, longest))
		}
		if others == enough {
			return first, true
		}
	}
}

// shortName returns the name of a proxy in flags.
func shortName(proxy record.Proxy) string {
	_, name, ok := strings.Cut(string(proxy), " ")
	if !ok {
		return string(proxy)
	}
	return name
}
