package foreignload

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nfproxy/integration/cluster"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/sandbox"
)

func TestMain(m *testing.M) { cluster.Main(m, nil) }

// loadedNode is a node on which nfproxy serves Services from manifests, in the tests' namespace.
type loadedNode struct {
	t       *testing.T
	network *sandbox.Network
	client  *sandbox.Pod
	dir     string // of the manifests
	daemon  *cluster.Process
	kernel  *kernel.Conn // of the other program: the tests
}

// steady is a Service that no test changes, as is "other" unless a test says so.
const steady, other = "10.96.0.1:80", "10.96.0.2:80"

// newNode returns a node with two pods that serve both Services, and a pod for clients. nfproxy does not run yet.
func newNode(t *testing.T) *loadedNode {
	t.Helper()
	ns, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(ns, cluster.NodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	n := &loadedNode{t: t, network: network, dir: t.TempDir()}
	t.Cleanup(func() {
		if out, err := cluster.Command(t, "cleanup").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	if n.kernel, err = kernel.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.kernel.Close() })
	for i := range 2 {
		addr := fmt.Sprintf("10.244.1.%d", i+2)
		cluster.ServeGreeting(t, n.addPod(fmt.Sprint("server-", i), addr), addr+":8080", addr)
	}
	n.client = n.addPod("client", "10.244.1.99")
	n.write("node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n"+
		"status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: \"2001:db8::10\"}]}\n")
	n.write("steady.yaml", manifest("steady", steady, "10.244.1.2", "10.244.1.3"))
	n.write("other.yaml", manifest("other", other, "10.244.1.2", "10.244.1.3"))
	return n
}

func (n *loadedNode) addPod(name, addr string) *sandbox.Pod {
	n.t.Helper()
	pod, err := n.network.AddPod(name, netip.MustParseAddr(addr))
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}

// manifest returns a Service with a node port at 30000 plus the last number of its cluster IP, and its EndpointSlice.
func manifest(name, frontend string, endpoints ...string) string {
	at := netip.MustParseAddrPort(frontend)
	var list []string
	for _, e := range endpoints {
		list = append(list, fmt.Sprintf("{addresses: [%s], nodeName: node-a}", e))
	}
	ip := at.Addr().As4()
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: NodePort, clusterIP: %s, ports: [{port: %d, nodePort: %d}]}\n"+
		"---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\n"+
		"ports: [{name: \"\", port: 8080}]\nendpoints: [%s]\n---\n", name, at.Addr(), at.Port(), 30000+int(ip[2])<<8+int(ip[3]), name, name, strings.Join(list, ", "))
}

// write replaces a manifest as a whole.
func (n *loadedNode) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		n.t.Fatal(err)
	}
}

// start starts nfproxy.
func (n *loadedNode) start(flags ...string) {
	n.t.Helper()
	n.daemon = cluster.StartDaemon(n.t, append([]string{"run", "--manifests", n.dir, "--hostname-override", "node-a",
		"--cluster-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/16", "--metrics-bind-address", "127.0.0.1:10249"}, flags...)...)
}

// stop ends nfproxy. With the race detector, its exit status tells whether it found a race.
func (n *loadedNode) stop() {
	n.t.Helper()
	n.daemon.Stop()
}

// clientCount is how many clients connect at the same time.
const clientCount = 4

// clients starts clients of the Service steady.
func (n *loadedNode) clients() *cluster.Clients {
	n.t.Helper()
	return cluster.StartClients(n.t, clientCount, n.client.Namespace, steady)
}

// wantNoFailure stops clients and fails the test if a connection failed. It returns the number of connections.
func (n *loadedNode) wantNoFailure(clients *cluster.Clients) int {
	n.t.Helper()
	clients.AwaitMore(n.t, 20)
	if failed := clients.Stop(); len(failed) > 0 {
		n.t.Errorf("%d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(5, len(failed))], "; "))
	}
	return clients.Total
}

// tables returns nfproxy's tables in the kernel.
func (n *loadedNode) tables() []*nft.Table {
	n.t.Helper()
	tables, _, err := n.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		n.t.Fatal(err)
	}
	return tables
}

// text returns nfproxy's tables as text, without the counters, and without balancing chains that no element leads to: these
// may stay for some time.
func (n *loadedNode) text() string {
	n.t.Helper()
	var b strings.Builder
	for _, t := range n.tables() {
		used := make(map[string]bool)
		for _, s := range t.Sets {
			for i := range s.Elements {
				s.Elements[i].Counter = nil
				used[s.Elements[i].Data.Verdict().Chain] = s.IsVerdictMap()
			}
		}
		t.Chains = slices.DeleteFunc(t.Chains, func(c *nft.Chain) bool {
			return render.IsBalancing(c.Name) && !used[strings.Replace(c.Name, "draw-", "lb-", 1)]
		})
		b.WriteString(t.String())
	}
	return b.String()
}

// awaitText waits until the tables are as they were, and stay so for two reads.
func (n *loadedNode) awaitText(want string) {
	n.t.Helper()
	cluster.EventuallyTrue(n.t, "the tables are as desired", func() (bool, string) {
		if got := n.text(); got != want {
			return false, "they are\n" + got + "\nnot\n" + want + "\nthe log is\n" + n.daemon.Log.String()
		}
		return n.text() == want, "they changed again"
	})
}

// awaitServed waits until nfproxy has programmed a frontend, and returns the tables as text.
func (n *loadedNode) awaitServed(frontend string) string {
	n.t.Helper()
	addr, port, _ := strings.Cut(frontend, ":")
	key := fmt.Sprintf("%s . tcp . %s comment", addr, port)
	cluster.EventuallyTrue(n.t, frontend+" is served", func() (bool, string) {
		text := n.text() // the base chains come in a later transaction than the Services
		return strings.Contains(text, key) && strings.Contains(text, "hook input"), text + "\nthe log is\n" + n.daemon.Log.String()
	})
	return n.text()
}

// repairs returns how many repairs nfproxy logged.
func (n *loadedNode) repairs() int {
	return strings.Count(n.daemon.Log.String(), "repaired what others had changed")
}
