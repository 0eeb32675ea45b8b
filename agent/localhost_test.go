package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"nfproxy/config"
	"nfproxy/logtest"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// localhostNode is this network namespace as a node with the Pods a and b, in whose place b is one of another node, and an
// endpoint of its own, all with a listener that sends its name, in both families.
type localhostNode struct {
	t   *testing.T
	dir string
	log logtest.Buffer
}

// The addresses of the endpoints.
var localhostEndpoints = map[string][2]string{
	"a": {"10.244.1.2", "fd00:10:244:1::2"}, "b": {"10.244.2.2", "fd00:10:244:2::2"}, "self": {"192.0.2.10", "2001:db8::10"},
}

func newLocalhostNode(t *testing.T) *localhostNode {
	t.Helper()
	network := newNodeNetwork(t)
	node := network.Node()
	if err := node.RaiseLoopback(); err != nil {
		t.Fatal(err)
	}
	for name, addrs := range localhostEndpoints {
		in := node
		if name != "self" {
			pod, err := network.AddPod(name, netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1]))
			if err != nil {
				t.Fatal(err)
			}
			in = pod.Namespace
		}
		for _, addr := range addrs {
			l, err := in.Listen("tcp", net.JoinHostPort(addr, "8080"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
					fmt.Fprintf(conn, "%s from %s", name, host)
					conn.Close()
				}
			}()
		}
	}
	return &localhostNode{t: t, dir: t.TempDir()}
}

// run starts the daemon until the test ends or the returned function is called.
func (n *localhostNode) run() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	set := config.Settings{Manifests: n.dir, NodePorts: config.NodePorts{Primary: true, Localhost: true},
		Node: render.Node{Name: "node-a", Loopback: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}}}
	var guard Guard
	go func() { done <- Run(ctx, set, "v1.2.3", &guard, slog.New(slog.NewTextHandler(&n.log, nil))) }()
	end = func() {
		if cancel(); ctx != nil {
			if err := errors.Join(<-done, guard.Close()); err != nil {
				n.t.Error(err)
			}
		}
		ctx = nil
	}
	n.t.Cleanup(func() {
		end()
		k, err := kernel.Open()
		if err != nil {
			n.t.Fatal(err)
		}
		defer k.Close()
		removeTables(n.t, k)
		if n.t.Failed() {
			n.t.Logf("logged:\n%s", n.log.String())
		}
	})
	return end
}

// write writes the manifests: Service web with fields of its spec, and the endpoints with these names and conditions, such as
// "a" and "b ready: false".
func (n *localhostNode) write(spec string, endpoints ...string) {
	n.t.Helper()
	text := `
apiVersion: v1
kind: Node
metadata: {name: node-a}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
`
	if spec != "" {
		text += `---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIPs: [10.96.0.1, "fd00:10:96::1"]
  ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, nodePort: 30053}]
  ` + spec + "\n"
	}
	for i, family := range []string{"IPv4", "IPv6"} {
		text += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-%d, labels: {kubernetes.io/service-name: web}}
addressType: %s
ports: [{name: http, port: 8080}]
endpoints:
`, i, family)
		for _, e := range endpoints {
			name, conditions, _ := strings.Cut(e, " ")
			at := map[string]string{"a": "node-a", "b": "node-b", "self": "node-a"}[name]
			text += fmt.Sprintf("- {addresses: [%q], nodeName: %s, conditions: {%s}}\n", localhostEndpoints[name][i], at, conditions)
		}
	}
	file := filepath.Join(n.dir, "all.yaml")
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		n.t.Fatal(err)
	}
}

// ask returns what a connection receives, or that it was refused.
func ask(at string) string {
	conn, err := net.DialTimeout("tcp", at, patience)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "refused"
	}
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// want waits until connections to both loopback addresses reach all of the endpoints and no others, or are refused, and the
// endpoints see the node's address.
func (n *localhostNode) want(names ...string) {
	n.t.Helper()
	for i, at := range []string{"127.0.0.1:30080", "[::1]:30080"} {
		var all []string
		for _, name := range names {
			if name != "refused" {
				name += " from " + localhostEndpoints["self"][i]
			}
			all = append(all, name)
		}
		slices.Sort(all)
		within(n.t, fmt.Sprintf("%s reaches exactly %q", at, all), func() bool {
			var got []string
			for range 30 {
				got = append(got, ask(at))
			}
			slices.Sort(got)
			return slices.Equal(slices.Compact(got), all)
		})
	}
}

// TestRunLocalhost: TCP connections to a node port at the loopback addresses reach the endpoints of the Service, Pods and the
// node itself, as the traffic policy and the conditions choose them; they are refused without endpoints and without the Service.
// Loopback addresses stay unreachable from outside.
func TestRunLocalhost(t *testing.T) {
	n := newLocalhostNode(t)
	const cluster, local = "externalTrafficPolicy: Cluster", "externalTrafficPolicy: Local"
	n.write(cluster, "a", "b", "self")
	end := n.run()
	n.want("a", "b", "self")
	n.write(local, "a", "b", "self")
	n.want("a", "self")
	n.write(local, "b")
	n.want("refused")
	n.write(cluster, "b")
	n.want("b")
	n.write(cluster, "a", "b ready: false")
	n.want("a")
	n.write(cluster, "a ready: false, serving: true, terminating: true", "b ready: false")
	n.want("a")
	n.write(cluster, "a ready: false")
	n.want("refused")
	n.write("sessionAffinity: ClientIP", "self")
	n.want("self")
	n.write("sessionAffinity: ClientIP", "a", "b", "self")
	n.want("self")
	n.write("sessionAffinity: ClientIP", "a")
	n.want("a")
	n.write("")
	n.want("refused")
	n.write(cluster, "self")
	n.want("self")
	wantLoopbackAlone(t)
	wantUDPUnaffected(t, "127.0.0.1:30053")
	wantUDPUnaffected(t, "[::1]:30053")
	const udp = `level=WARN msg="a node port is not served at localhost: only TCP is" service=default/web port=dns nodePort=30053 protocol=udp`
	if log := n.log.String(); strings.Count(log, udp) != 2 { // the Service was there twice
		t.Errorf("%d warnings about the UDP port", strings.Count(log, udp))
	}
	end()
	n.want("refused")
}

// wantUDPUnaffected fails the test unless a program that listens at an address receives packets.
func wantUDPUnaffected(t *testing.T, at string) {
	t.Helper()
	server, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fmt.Fprint(client, "hello")
	_ = server.SetReadDeadline(time.Now().Add(patience))
	if n, _, err := server.ReadFrom(make([]byte, 9)); n != 5 || err != nil {
		t.Errorf("%s receives %d bytes: %v", at, n, err)
	}
}

// TestRunLocalhostTaken: a node port at which another process listens is reported once, with its Service, and served when the
// process ends.
func TestRunLocalhostTaken(t *testing.T) {
	n := newLocalhostNode(t)
	other, err := net.Listen("tcp4", "127.0.0.1:30080")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n.write("externalTrafficPolicy: Cluster", "a")
	n.run()
	within(t, "::1 is served", func() bool { return ask("[::1]:30080") == "a from 2001:db8::10" })
	time.Sleep(1500 * time.Millisecond) // for another attempt
	const taken = `msg="node port cannot be served at localhost yet" service=default/web address=127.0.0.1:30080 error="listen tcp4 127.0.0.1:30080: bind: address already in use"`
	if log := n.log.String(); strings.Count(log, taken) != 1 {
		t.Errorf("%d warnings about the port", strings.Count(log, taken))
	}
	other.Close()
	n.want("a")
}
