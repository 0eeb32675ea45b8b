package faults

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/integration/cluster"
	"nfproxy/integration/supervise"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// patience is how long a test waits for the end state. calm is how long the daemon makes no call when it has nothing to do: longer
// than its shortest pause after a failure.
const (
	patience = 20 * time.Second
	calm     = 250 * time.Millisecond
	// idle is how long a daemon that reacts to nothing makes no call.
	idle = 2 * time.Second
)

// node is the namespace of the tests: a directory of manifests, the kernel's state, and at times a daemon.
type node struct {
	t       *testing.T
	dir     string
	kernel  *kernel.Conn
	flows   *ctnetlink.Conn
	process *cluster.Process
	*supervisor
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir()}
	var err error
	if n.kernel, err = kernel.Open(); err != nil {
		t.Fatal(err)
	}
	if n.flows, err = ctnetlink.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.removeTables()
		n.kernel.Close()
		n.flows.Close()
	})
	return n
}

// start starts nfproxy under a supervisor with a fault.
func (n *node) start(f fault) {
	n.t.Helper()
	cmd, handover, err := supervise.Command(cluster.Command(n.t).Path, []string{"run", "--manifests", n.dir, "--hostname-override", "node-a",
		"--service-cidr", "10.96.0.0/16", "--cluster-cidr", "10.244.0.0/16", "--healthz-bind-address=", "--metrics-bind-address=",
		"--conntrack-max-per-core", "0", "--oom-score-adj", "0"}, unix.SYS_SENDTO, unix.SYS_READ)
	if err != nil {
		n.t.Fatal(err)
	}
	n.process = cluster.StartProcess(n.t, cmd)
	listener, err := handover.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	n.supervisor = newSupervisor(f)
	go listener.Serve(n.supervisor.decide)
}

// stop ends the daemon, if there is one.
func (n *node) stop() {
	n.t.Helper()
	if n.process != nil {
		n.set(nil)
		n.process.Stop()
		n.process = nil
	}
}

// write writes the manifests of Services.
func (n *node) write(services ...string) {
	n.t.Helper()
	text := "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.10}]}\n" + strings.Join(services, "")
	file := filepath.Join(n.dir, ".all")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(file, filepath.Join(n.dir, "all.yaml")); err != nil { // the daemon never reads a part
		n.t.Fatal(err)
	}
}

// service returns the manifests of a Service with one port and the endpoints 10.244.1.N.
func service(name, spec, protocol string, endpoints ...int) string {
	var list []string
	for _, e := range endpoints {
		list = append(list, fmt.Sprintf("{addresses: [10.244.1.%d]}", e))
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {namespace: test, name: %[1]s}
spec: {%[2]s, ports: [{name: p, port: 80, protocol: %[3]s}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: test, name: %[1]s-a, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: p, port: 8080, protocol: %[3]s}]
endpoints: [%[4]s]
`, name, spec, protocol, strings.Join(list, ", "))
}

// removeTables removes nfproxy's tables and all UDP flows.
func (n *node) removeTables() {
	n.t.Helper()
	n.apply(nft.Diff(n.tables(), nil)...)
	for _, f := range n.udpFlows() {
		if err := n.flows.Delete(f); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) apply(changes ...nft.Change) {
	n.t.Helper()
	if err := n.kernel.Apply(changes, 0); err != nil {
		n.t.Fatal(err)
	}
	for n.kernel.Unsettled() {
		if err := n.kernel.Settle(time.Second); err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) tables() []*nft.Table {
	n.t.Helper()
	tables, _, err := n.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		n.t.Fatal(err)
	}
	return tables
}

func (n *node) udpFlows() (all []conntrack.Flow) {
	n.t.Helper()
	err := n.flows.List(conntrack.Filter{Family: nft.IPv4, Protocol: nft.UDP}, func(f conntrack.Flow) { all = append(all, f) })
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

// addFlows adds conntrack entries of UDP flows to a frontend that are answered by an endpoint.
func (n *node) addFlows(frontend, endpoint string, count int) {
	n.t.Helper()
	handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		n.t.Fatal(err)
	}
	defer handle.Close()
	to, answers, client := netip.MustParseAddrPort(frontend), netip.MustParseAddrPort(endpoint), netip.MustParseAddr("10.244.9.9")
	for i := range count {
		tuple := func(from, to netip.AddrPort) netlink.IPTuple {
			return netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: net.IP(from.Addr().AsSlice()), SrcPort: from.Port(), DstIP: net.IP(to.Addr().AsSlice()), DstPort: to.Port()}
		}
		source := netip.AddrPortFrom(client, uint16(40000+i)+answers.Port()-8080+uint16(answers.Addr().As4()[3])*100)
		err := handle.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{FamilyType: unix.AF_INET,
			Forward: tuple(source, to), Reverse: tuple(answers, source), TimeOut: 600})
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

// state describes everything that nfproxy keeps in the kernel: the tables without counters, the guard and the conntrack entries.
// Balancing chains that no element leads to are left out: they depend on what was there before.
func (n *node) state() string {
	n.t.Helper()
	var b strings.Builder
	for _, t := range n.tables() {
		for _, s := range t.Sets {
			for i := range s.Elements {
				s.Elements[i].Counter = nil
			}
		}
		b.WriteString(t.String())
	}
	survey, err := n.kernel.Survey()
	if err != nil {
		n.t.Fatal(err)
	}
	guards := 0
	for _, t := range survey {
		if strings.HasPrefix(t.Name, "nfproxy-guard") {
			guards += len(t.Chains)
		}
	}
	fmt.Fprintf(&b, "%d guards\n", guards)
	var flows []string
	for _, f := range n.udpFlows() {
		flows = append(flows, f.String())
	}
	slices.Sort(flows)
	b.WriteString(strings.Join(flows, "\n"))
	return b.String()
}

// settle waits until the daemon makes no more calls, and returns how many it made since set and how many failed. It waits longer
// for the first call.
func (n *node) settle() (calls [2]int, failed int) {
	n.t.Helper()
	start := time.Now()
	for deadline := start.Add(patience); ; time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-n.process.Done:
			n.process.Done <- err
			n.t.Fatalf("nfproxy ended: %v", err)
		default:
		}
		calls, failed, quiet, err := n.seen()
		if err != nil {
			n.t.Fatal(err)
		}
		if quiet > calm && (calls != [2]int{} || time.Since(start) > idle) {
			return calls, failed
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("the daemon does not come to rest: %v calls", calls)
		}
	}
}

// rest waits until the daemon has reacted to what was just changed, and makes no more calls.
func (n *node) rest() {
	n.t.Helper()
	n.set(nil)
	n.settle()
}

// reach waits for an end state, with the daemon at rest. calls and failed are the calls that led to it.
func (n *node) reach(what, want string) (calls [2]int, failed int) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		calls, failed = n.settle()
		have := n.state()
		if have == want {
			return calls, failed
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: the end state differs (-want +got):\n%s", what, difference(want, have))
		}
	}
}

// await waits until the state meets a condition.
func (n *node) await(what string, holds func(state string) bool) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); !holds(n.state()); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%s: not within %s; the log:\n%s", what, patience, n.process.Log)
		}
	}
}

// difference describes how two states differ.
func difference(a, b string) string {
	return cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n"))
}
