package datapath

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/conntrack/ctnetlink"
	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/logtest"
	"nfproxy/sandbox"
)

// The processors of the machine: clients and servers have one each.
const (
	clientCPU = "0"
	serverCPU = "1"
)

// Places from which clients connect.
const (
	fromPod     = "pod"
	fromNode    = "node"
	fromOutside = "outside"
)

var (
	nodeAddr   = netip.MustParseAddr("192.0.2.10")
	serverAddr = netip.MustParseAddr("10.244.1.2")
	// endpointPool contains the addresses of all endpoints that serve. They belong to one pod, which is that of serverAddr too.
	endpointPool = netip.MustParsePrefix("10.244.64.0/18")
)

// node is the network of one proxy: a node with a server, and a client at each place.
type node struct {
	t       testing.TB
	proxy   record.Proxy
	network *sandbox.Network
	server  *sandbox.Pod
	places  map[string]*sandbox.Namespace
	clients map[string]*agent
	flows   *ctnetlink.Conn
	handle  *netlink.Handle
	process *program // the proxy, until it has programmed the Services
}

// newNode makes the network of a proxy and starts its server and its clients. It ends with the test.
func newNode(t testing.TB, proxy record.Proxy) *node {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	check(t, err)
	n := &node{t: t, proxy: proxy, clients: make(map[string]*agent)}
	n.network, err = sandbox.NewNetwork(ns, nodeAddr)
	check(t, err)
	t.Cleanup(func() {
		check(t, n.network.Close())
		ns.Close()
	})
	n.server = n.addPod("server", serverAddr)
	client, outside := n.addPod("client", netip.MustParseAddr("10.244.1.9")), n.addPod("outside", netip.MustParseAddr("198.51.100.7"))
	n.places = map[string]*sandbox.Namespace{fromPod: client.Namespace, fromNode: ns, fromOutside: outside.Namespace}
	n.addEndpoints()
	check(t, ns.Do(func() (err error) {
		n.flows, err = ctnetlink.Open()
		return err
	}))
	t.Cleanup(func() { n.flows.Close() })
	server := n.agent(n.server.Namespace, serverCPU, serverProgram)
	if line, err := server.replies.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server of %s: %q, %v: %s", proxy, line, err, server.log)
	}
	for place, ns := range n.places {
		n.clients[place] = n.agent(ns, clientCPU, clientProgram)
	}
	n.keepFlows()
	if proxy == record.None { // a rule that reads connection tracking turns it on, wherever it is
		check(t, ns.Run("table ip tracking { chain unused { ct state new; }; }", "nft", "-f", "-"))
	}
	return n
}

func (n *node) addPod(name string, addr netip.Addr) *sandbox.Pod {
	n.t.Helper()
	pod, err := n.network.AddPod(name, addr)
	check(n.t, err)
	return pod
}

// addEndpoints gives the server the addresses of all endpoints: the node routes them as it routes the server's first address.
func (n *node) addEndpoints() {
	n.t.Helper()
	pool := &net.IPNet{IP: endpointPool.Addr().AsSlice(), Mask: net.CIDRMask(endpointPool.Bits(), 32)}
	inNamespace := func(ns *sandbox.Namespace, f func(*netlink.Handle) error) *netlink.Handle {
		var h *netlink.Handle
		check(n.t, ns.Do(func() (err error) {
			if h, err = netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER); err != nil {
				return err
			}
			return f(h)
		}))
		n.t.Cleanup(h.Close)
		return h
	}
	inNamespace(n.server.Namespace, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: pool, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST})
	})
	n.handle = inNamespace(n.network.Node(), func(h *netlink.Handle) error {
		like, err := h.RouteGet(serverAddr.AsSlice())
		if err != nil || len(like) != 1 {
			return fmt.Errorf("the route to the server: %v, %w", like, err)
		}
		return h.RouteAdd(&netlink.Route{LinkIndex: like[0].LinkIndex, Dst: pool, Gw: like[0].Gw, Src: nodeAddr.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
	})
}

// keepFlows makes the node remember closed connections for longer than a round takes on a busy machine.
func (n *node) keepFlows() {
	n.t.Helper()
	for _, name := range []string{"nf_conntrack_tcp_timeout_close", "nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		check(n.t, n.network.Node().Do(func() error { return os.WriteFile("/proc/sys/net/netfilter/"+name, []byte("600"), 0) }))
	}
}

// forget deletes all conntrack entries of the node and returns their number.
func (n *node) forget() uint32 {
	n.t.Helper()
	flows, err := n.flows.Count()
	check(n.t, err)
	check(n.t, n.handle.ConntrackTableFlush(netlink.ConntrackTable))
	return flows
}

// program is a running process.
type program struct {
	cmd  *exec.Cmd
	log  *logtest.Buffer
	done chan struct{} // closed when the process has ended
}

// start starts a program in a namespace. It is killed when the test ends, at the latest.
func start(t testing.TB, ns *sandbox.Namespace, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{cmd: cmd, log: &logtest.Buffer{}, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	cmd.Stderr = p.log
	cmd.Env = append(cmd.Environ(), cluster.OutsideEnv+"="+os.Getenv(cluster.OutsideEnv))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go ns.Do(func() error { // on a thread of its own: the kernel sends the death signal when that thread ends
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.done)
		}
		return nil
	})
	check(t, <-started)
	t.Cleanup(p.kill)
	return p
}

// kill kills the process and waits until it has ended. Rules in the kernel stay.
func (p *program) kill() {
	_ = p.cmd.Process.Kill() // an error means that the process has ended
	<-p.done
}

// agent is a server or client of this package: a process with its own processor.
type agent struct {
	*program
	orders  io.Writer
	replies *bufio.Reader
}

// agent starts a program of this package in a namespace.
func (n *node) agent(ns *sandbox.Namespace, cpu, name string) *agent {
	n.t.Helper()
	path, err := exec.LookPath(name)
	check(n.t, err)
	cmd := exec.Command("taskset", "-c", cpu, path)
	// The signal by which Go interrupts a thread would end a read with a timeout: it is not restarted (signal(7)).
	cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	in, err := cmd.StdinPipe()
	check(n.t, err)
	out, feed, err := os.Pipe()
	check(n.t, err)
	cmd.Stdout = feed
	a := &agent{program: start(n.t, ns, cmd), orders: in, replies: bufio.NewReader(out)}
	feed.Close()
	n.t.Cleanup(func() { out.Close() })
	return a
}

// connect lets the client at a place carry an order out.
func (n *node) connect(place string, o order) result {
	n.t.Helper()
	client := n.clients[place]
	text, err := json.Marshal(o)
	check(n.t, err)
	_, err = client.orders.Write(append(text, '\n'))
	check(n.t, err)
	line, err := client.replies.ReadBytes('\n')
	if err != nil {
		n.t.Fatalf("the client at %s of %s: %v: %s", place, n.proxy, err, client.log)
	}
	var r result
	check(n.t, json.Unmarshal(line, &r))
	return r
}

// startProxy starts the node's proxy on a node without rules.
func (n *node) startProxy(kubeconfig string) {
	n.t.Helper()
	check(n.t, n.network.Node().Run("flush ruleset", "nft", "-f", "-"))
	dir := n.t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	check(n.t, os.WriteFile(path, []byte(n.configuration(kubeconfig)), 0o600))
	if n.proxy == record.Nfproxy {
		n.process = start(n.t, n.network.Node(), cluster.Command(n.t, "run", "--config", path))
		return
	}
	program, err := filepath.Abs(".bin/kube-proxy")
	check(n.t, err)
	if _, err := os.Stat(program); err != nil {
		n.t.Fatalf("kube-proxy is not built: run `make controlplane` (%v)", err)
	}
	cmd := exec.Command(program, "--config", path)
	if n.proxy == record.KubeProxyIptables && *backend != "" {
		for _, table := range []string{"nat", "filter", "mangle"} { // those of the legacy backend are no part of the ruleset
			check(n.t, n.network.Node().Run("*"+table+"\nCOMMIT\n", "iptables-"+*backend+"-restore"))
		}
		cmd.Env = append(os.Environ(), "PATH="+backendPrograms(n.t, dir)+":"+os.Getenv("PATH"))
	}
	n.process = start(n.t, n.network.Node(), cmd)
}

// backendPrograms makes links in a directory by which kube-proxy finds the programs of the backend, and returns the directory.
func backendPrograms(t testing.TB, dir string) string {
	t.Helper()
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, program := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-" + *backend + program)
			check(t, err)
			check(t, os.Symlink(path, filepath.Join(dir, family+program)))
		}
	}
	return dir
}

// configuration returns the KubeProxyConfiguration of the node's proxy. The conntrack settings would change the machine.
func (n *node) configuration(kubeconfig string) string {
	mode := "nftables"
	if n.proxy == record.KubeProxyIptables {
		mode = "iptables"
	}
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clusterCIDR: 10.244.0.0/16
hostnameOverride: %s
clientConnection: {kubeconfig: %s, qps: -1}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
oomScoreAdj: 0
`, mode, cluster.NodeName, kubeconfig)
}

// awaitProxy waits until connections to all targets are answered, for as long as a proxy may take. It then kills the proxy, whose
// rules stay, and returns how long it waited and whether it was long enough.
func (n *node) awaitProxy(begun time.Time, targets []order) (took time.Duration, ok bool) {
	n.t.Helper()
	defer n.process.kill()
	for _, o := range targets {
		for o.Connections = len(o.Targets); ; time.Sleep(100 * time.Millisecond) {
			select {
			case <-n.process.done:
				n.t.Fatalf("%s has ended: %s", n.proxy, n.process.log)
			default:
			}
			r := n.connect(fromPod, o)
			if r.Error == "" {
				break
			}
			if time.Since(begun) > *patience {
				n.t.Logf("%s: %s; its log is\n%s", n.proxy, r.Error, n.process.log)
				return time.Since(begun), false
			}
		}
	}
	return time.Since(begun), true
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
