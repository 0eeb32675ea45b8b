package killpoints

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/integration/cluster"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// manifests are the Services of the tests: clients connect to served; the tests damage the rules of damaged.
const manifests = `apiVersion: v1
kind: Service
metadata: {name: served}
spec: {clusterIPs: [10.96.0.1, "fd00:10:96::1"], ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: served, labels: {kubernetes.io/service-name: served}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.244.1.2], nodeName: node-a}]
---
apiVersion: v1
kind: Service
metadata: {name: damaged}
spec: {clusterIPs: [10.96.0.2], sessionAffinity: ClientIP, ports: [{port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: damaged, labels: {kubernetes.io/service-name: damaged}}
addressType: IPv4
ports: [{name: "", port: 8080}, {name: dns, port: 53, protocol: UDP}]
endpoints: [{addresses: [10.244.1.2], nodeName: node-a}, {addresses: [10.244.2.2]}, {addresses: [10.244.2.3]}]
`

// configuration is a KubeProxyConfiguration with the cluster CIDR in place of CIDR.
const configuration = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
hostnameOverride: node-a
clusterCIDR: CIDR
healthzBindAddress: ""
metricsBindAddress: ""
oomScoreAdj: 0
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// node is a node with a Pod that serves, one that connects, and a directory of manifests and a configuration for nfproxy.
type node struct {
	t      *testing.T
	binary string
	dir    string
	kernel *kernel.Conn
	client *sandbox.Pod
}

func newNode(t *testing.T) *node {
	t.Helper()
	here, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(here, netip.MustParseAddr("192.0.2.10"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { errors.Join(network.Close(), here.Close()) })
	n := &node{t: t, binary: builtOnce(t), dir: t.TempDir()}
	if n.kernel, err = kernel.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.kernel.Close() })
	if n.client, err = network.AddPod("client", netip.MustParseAddr("10.244.1.9")); err != nil {
		t.Fatal(err)
	}
	server, err := network.AddPod("server", netip.MustParseAddr("10.244.1.2"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := server.Listen("tcp", "10.244.1.2:8080")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go accept(listener)
	if err := os.Mkdir(n.dir+"/manifests", 0o755); err != nil {
		t.Fatal(err)
	}
	n.write("manifests/all.yaml", manifests)
	n.configure("10.244.0.0/16")
	return n
}

// accept closes every connection once the client has.
func accept(listener net.Listener) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			io.Copy(io.Discard, c)
			c.Close()
		}()
	}
}

// write replaces a file at once: nfproxy must not read half of it.
func (n *node) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		n.t.Fatal(err)
	}
}

// configure writes the configuration with a cluster CIDR. A daemon that runs executes itself again for another one.
func (n *node) configure(clusterCIDR string) {
	n.t.Helper()
	n.write("config.yaml", strings.ReplaceAll(configuration, "CIDR: CIDR", "CIDR: "+clusterCIDR))
}

// args returns the command line of a daemon.
func (n *node) args(more ...string) []string {
	return append([]string{n.binary, "run", "--config", n.dir + "/config.yaml", "--manifests", n.dir + "/manifests"}, more...)
}

// start starts a daemon that runs undisturbed.
func (n *node) start(more ...string) *cluster.Process {
	n.t.Helper()
	args := n.args(more...)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cluster.StartProcess(n.t, cmd)
}

// program runs a daemon until its tables are there, and returns them.
func (n *node) program(more ...string) string {
	n.t.Helper()
	p := n.start(more...)
	p.AwaitLog("in sync")
	p.Stop()
	return n.tables()
}

// tables returns nfproxy's tables as text, without what counters have counted.
func (n *node) tables() string {
	n.t.Helper()
	tables, _, err := n.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		n.t.Fatal(err)
	}
	var b strings.Builder
	for _, t := range tables {
		for _, s := range t.Sets {
			s.Sort()
			if s.Dynamic { // what packets add
				s.Elements = nil
			}
		}
		b.WriteString(t.String())
	}
	return counted.ReplaceAllString(b.String(), "counter")
}

// counted matches what a counter has counted.
var counted = regexp.MustCompile(`counter packets \d+ bytes \d+`)

// nft runs nft with commands.
func (n *node) nft(commands string) {
	n.t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("nft: %v\n%s\n%s", err, out, commands)
	}
}

// connects counts the connections of a client that connects all the time.
type connects struct {
	stop         context.CancelFunc
	connecting   sync.WaitGroup
	made, failed int
	first        error
}

// connect begins to connect to the Service, one connection after the other.
func (n *node) connect() *connects {
	ctx, cancel := context.WithCancel(context.Background())
	c := &connects{stop: cancel}
	c.connecting.Go(func() {
		for ctx.Err() == nil {
			err := n.dial()
			if c.made++; err != nil {
				c.failed++
				if c.first == nil {
					c.first = err
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	return c
}

// dial connects to the Service once.
func (n *node) dial() error {
	ctx, done := context.WithTimeout(context.Background(), 10*time.Second)
	defer done()
	conn, err := n.client.Dial(ctx, "tcp", "", "10.96.0.1:80")
	if err != nil {
		return err
	}
	conn.(*net.TCPConn).SetLinger(0) // a reset, after which the port is free at once
	return conn.Close()
}

// end ends the client. It fails the test if a connection failed, or if there was none.
func (c *connects) end(t *testing.T) {
	t.Helper()
	c.stop()
	c.connecting.Wait()
	if c.failed > 0 || c.made == 0 {
		t.Errorf("%d of %d connections failed: %v", c.failed, c.made, c.first)
	}
}
