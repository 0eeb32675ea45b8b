package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

// migration is a node that goes from kube-proxy to nfproxy and back, while clients connect all the time.
type migration struct {
	*testServices
	files   map[string]string // kubeadm's ConfigMap, for both
	node    *container        // nfproxy's
	open    []*connection     // since kube-proxy was alone
	clients map[string]*cluster.Clients
}

// newMigration starts kube-proxy alone, and what connects.
func newMigration(t *testing.T, mode string) (*migration, *cluster.Process) {
	c := newDeployment(t)
	c.ApplyAll(cluster.ReadManifest(t, cluster.KubeadmManifest))
	m := &migration{testServices: newTestServices(c), files: cluster.KubeadmConfigFiles(t, mode), clients: map[string]*cluster.Clients{}}
	m.node = c.daemonSetContainer(m.files)
	peer := c.StartKubeProxy(m.files)
	texts := []string{m.ip["empty"], backendAddr(0), rangeIP, "fd00:10:244:7::1"}
	programmed := cluster.KubeProxyTablesContain(texts...)
	if mode != cluster.NftablesMode {
		programmed = cluster.IptablesContain(t, texts...)
	}
	cluster.EventuallyTrue(t, "kube-proxy has programmed", programmed)
	return m, peer
}

// begin opens connections that stay, and starts those that come and go.
func (m *migration) startClients() {
	m.T.Helper()
	for _, way := range m.accesses() {
		c, err := connect(m.T, way)
		if err == nil {
			_, err = c.ask()
		}
		if err != nil {
			m.T.Fatalf("%s: %v", way.name, err)
		}
		m.open = append(m.open, c)
	}
	m.T.Cleanup(func() {
		for _, c := range m.open {
			c.Close()
		}
	})
	m.clients["cluster IP"] = cluster.StartClients(m.T, 2, m.client.Namespace, m.ip["web"]+":80")
	m.clients["node port"] = cluster.StartClients(m.T, 2, m.outside.Namespace, nodePortGreeting)
	udp := access{"UDP", "udp", m.client.Namespace, m.ip["dns"] + ":53", "10.244.1.99"}
	m.clients["UDP"] = cluster.StartClientsFunc(m.T, 1, func(context.Context) (string, error) {
		c, err := connect(m.T, udp)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.ask()
	})
}

// well fails the test unless connections begin and go on as they should, now.
func (m *migration) check(when string) {
	m.T.Helper()
	m.checkAll(when)
	for _, c := range m.open {
		if _, err := c.ask(); err != nil {
			m.T.Errorf("%s: open since kube-proxy was alone: %s: %v", when, c.name, err)
		}
	}
	for _, l := range m.clients {
		l.AwaitMore(m.T, 20)
	}
}

// nobodyNoticed ends the load, none of which has failed or has had to send its first packet twice.
func (m *migration) stopClients() {
	m.T.Helper()
	for name, l := range m.clients {
		failed := l.Stop()
		m.T.Logf("%s: %d connections, %d failed", name, l.Total, len(failed))
		if len(failed) > 0 {
			m.T.Errorf("%s: %d connections of %d failed: %s", name, len(failed), l.Total, strings.Join(failed[:min(3, len(failed))], "; "))
		}
	}
	for _, pod := range []*sandbox.Pod{m.client, m.outside} {
		if n := synRetransmissions(m.T, pod); n != "0" {
			m.T.Errorf("%s: %s first packets were sent again", pod.Name, n)
		}
	}
}

// repeatedSYNs is how many first packets of TCP connections a namespace has had to send again.
func synRetransmissions(t testing.TB, pod *sandbox.Pod) (n string) {
	t.Helper()
	err := pod.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/netstat")
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
		for i, name := range names {
			if name == "TCPSynRetrans" {
				n = values[i]
				return nil
			}
		}
		return fmt.Errorf("no TCPSynRetrans in %s", text)
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// nfproxyDoes runs another command in nfproxy's container, as kubectl exec does, and returns what it prints.
func (m *migration) runNfproxy(args ...string) string {
	m.T.Helper()
	exec := *m.node
	exec.Args = append([]string{"/nfproxy"}, args...)
	p := exec.start(m.T)
	err := <-p.Done
	if p.Done <- err; err != nil {
		m.T.Errorf("nfproxy %v: %v\n%s", args, err, p.Log)
	}
	return p.Log.String()
}

// ours are nfproxy's tables, without counters.
func (m *migration) nfproxyTables() string {
	m.T.Helper()
	out4, err4 := cluster.CombinedOutput("nft", "-s", "list", "table", "ip", "nfproxy")
	out6, err6 := cluster.CombinedOutput("nft", "-s", "list", "table", "ip6", "nfproxy")
	if err := errors.Join(err4, err6); err != nil {
		m.T.Fatal(err, out4, out6)
	}
	return out4 + out6
}

// follow waits until nfproxy has these endpoints of a Service and no others.
func (m *migration) awaitEndpoints(service string, backends ...int) {
	m.T.Helper()
	var want []string
	for _, i := range backends {
		want = append(want, backendAddr(i)+":8081")
	}
	m.AwaitFrontend(m.ip[service]+":81", want...)
}

// TestBesideKubeProxy: from the real kube-proxy to nfproxy and back, twice, both told by one file, kubeadm's: nobody who
// connects ever notices, and what is open goes on.
func TestBesideKubeProxy(t *testing.T) {
	m, peer := newMigration(t, cluster.NftablesMode)
	m.startClients()
	m.check("kube-proxy alone")

	agent := m.node.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed", m.DumpContains(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	for _, server := range []string{"healthz", "metrics"} { // kube-proxy has their ports
		agent.AwaitLog(`msg="server does not serve" server=` + server)
	}
	m.check("both")
	m.serve("web", 1, 2)
	m.awaitEndpoints("web", 1, 2)
	cluster.EventuallyTrue(t, "kube-proxy follows", cluster.KubeProxyTablesContain(backendAddr(2)+" . 8080")) // web alone has this port
	cluster.EventuallyTrue(t, "kube-proxy follows", cluster.Not(cluster.KubeProxyTablesContain(backendAddr(0)+" . 8080")))
	m.checkAnswers(m.accesses()[0], backendAddr(1), backendAddr(2))
	m.check("both, after a change")

	peer.End(syscall.SIGTERM)
	cluster.AwaitAnswer(t, 10256, "/readyz", 200, "ok") // the ports come to nfproxy
	cluster.AwaitAnswer(t, 10249, "/metrics", 200, "nfproxy_event_to_commit_seconds_count")
	cluster.EventuallyTrue(t, "the health check node port comes to nfproxy", func() (bool, string) {
		status, body := cluster.FetchAt(nodeAddr, localHealth, "/")
		return status == 200 && strings.Contains(body, `"localEndpoints": 2`), fmt.Sprint(status, body)
	})
	m.check("kube-proxy has ended")
	m.serve("web", 2, 3)
	m.awaitEndpoints("web", 2, 3)
	m.checkAnswers(m.accesses()[0], backendAddr(2), backendAddr(3))
	m.check("a change since kube-proxy has ended")
	if out := m.runNfproxy("cleanup", "--kube-proxy"); out != "removed table ip kube-proxy\nremoved table ip6 kube-proxy\n" {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	cluster.CheckTables(t, "ip nfproxy", "ip6 nfproxy")
	m.check("nfproxy alone")
	if out := m.runNfproxy("dump", "--diff", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override="+cluster.NodeName); out != "" {
		t.Errorf("nfproxy dump --diff: %s", out)
	}

	peer = m.StartKubeProxy(m.files) // the way back
	cluster.EventuallyTrue(t, "kube-proxy has programmed", cluster.KubeProxyTablesContain(rangeIP, backendAddr(3)+" . 8080"))
	m.check("both, on the way back")
	agent.Stop()
	cluster.AwaitAnswer(t, 10256, "/healthz", 200, "lastUpdated")
	m.check("nfproxy has ended")
	if out := m.runNfproxy("cleanup"); out != "removed table ip nfproxy\nremoved table ip6 nfproxy\n" {
		t.Errorf("nfproxy cleanup: %q", out)
	}
	cluster.CheckTables(t, "ip kube-proxy", "ip6 kube-proxy")
	m.check("kube-proxy alone again")

	agent = m.node.start(t) // and once more, and kube-proxy cleans up after itself
	cluster.EventuallyTrue(t, "nfproxy has programmed", m.DumpContains(rangeIP, backendAddr(3)+":8081"))
	peer.End(syscall.SIGTERM)
	before := m.nfproxyTables()
	m.cleanUpKubeProxy()
	cluster.CheckTables(t, "ip nfproxy", "ip6 nfproxy")
	if after := m.nfproxyTables(); after != before {
		t.Errorf("kube-proxy --cleanup changed nfproxy's tables from\n%sto\n%s", before, after)
	}
	m.check("nfproxy alone, after kube-proxy --cleanup")
	m.stopClients()
	agent.Stop()
}

// TestBesideIptables: the same from kube-proxy in iptables mode, which kubeadm's ConfigMap means if nobody says another.
func TestBesideIptables(t *testing.T) {
	m, peer := newMigration(t, cluster.DefaultMode)
	m.startClients()
	m.check("kube-proxy alone")
	agent := m.node.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed", m.DumpContains(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	m.check("both")
	peer.End(syscall.SIGTERM)
	m.serve("web", 2, 3)
	m.awaitEndpoints("web", 2, 3)
	m.checkAnswers(m.accesses()[0], backendAddr(2), backendAddr(3))
	m.check("a change since kube-proxy has ended")
	if out := m.runNfproxy("cleanup", "--kube-proxy"); !strings.HasPrefix(out, "left, ") || !strings.Contains(out, "kube-proxy --cleanup") {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	before := m.nfproxyTables()
	m.cleanUpKubeProxy()
	if ok, rules := cluster.IptablesContain(t, "KUBE-SVC-")(); ok {
		t.Errorf("kube-proxy --cleanup leaves\n%s", rules)
	}
	if after := m.nfproxyTables(); after != before {
		t.Errorf("kube-proxy --cleanup changed nfproxy's tables from\n%sto\n%s", before, after)
	}
	m.check("nfproxy alone, after kube-proxy --cleanup")
	m.stopClients()
	agent.Stop()
}

// cleansUp lets kube-proxy remove what it left.
func (m *migration) cleanUpKubeProxy() {
	m.T.Helper()
	cleaner := m.StartKubeProxy(m.files, "--cleanup")
	err := <-cleaner.Done
	if cleaner.Done <- err; err != nil {
		m.T.Errorf("kube-proxy --cleanup: %v\n%s", err, cleaner.Log)
	}
}

// TestStaleRules: of two that translate, whose chains were made last decides, and of one that has ended the rules decide by
// what it knew: what that breaks, that check says it, and that the removal of the rules is the cure.
func TestStaleRules(t *testing.T) {
	m, peer := newMigration(t, cluster.NftablesMode)
	agent := m.node.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed", m.DumpContains(rangeIP, backendAddr(0)+":8081"))
	peer.End(syscall.SIGTERM)
	web := access{"cluster IP", "tcp", m.client.Namespace, m.ip["web"] + ":81", "10.244.1.99"}
	atNode := access{"node port", "tcp", m.outside.Namespace, nodePort, nodeAddr}
	late := access{"let in late", "tcp", m.client.Namespace, rangeIP + ":81", nodeAddr}
	first := access{"a first endpoint", "tcp", m.client.Namespace, m.ip["empty"] + ":81", "10.244.1.99"}

	// nfproxy's chains were made last: it decides wherever it knows the destination.
	m.serve("web", 2)
	m.serve("empty", 3)
	m.setSourceRanges("198.51.100.0/24", "10.244.0.0/16")
	m.awaitEndpoints("web", 2)
	m.awaitEndpoints("empty", 3)
	cluster.EventuallyTrue(t, "nfproxy follows", cluster.TablesContain("nfproxy", rangeIP+" . tcp . 81 . 10.244.0.0/16"))
	m.checkAnswers(web, backendAddr(2))
	m.checkAnswers(atNode, backendAddr(2))
	m.checkAnswers(first, backendAddr(3)) // which kube-proxy would refuse
	m.checkUnanswered(late)               // kube-proxy's source ranges are asked before anybody translates
	if err := m.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.EventuallyTrue(t, "nfproxy follows", cluster.Not(m.DumpContains(m.ip["web"])))
	m.checkUnanswered(web)                                 // an address of the service CIDR that no Service has
	m.checkAnswers(atNode, backendAddr(0), backendAddr(1)) // the Service that there is not any more, for kube-proxy's rules
	if out := m.runNfproxy("check"); !strings.Contains(out, "table ip kube-proxy, ip6 kube-proxy: its rules decide as well") {
		t.Errorf("nfproxy check says nothing of kube-proxy's tables:\n%s", out)
	}
	m.runNfproxy("cleanup", "--kube-proxy")
	m.checkAnswers(late, backendAddr(0), backendAddr(1))
	if _, err := connect(t, atNode); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the node port of a Service that is gone: %v", err)
	}

	// kube-proxy's chains were made last, and it ends: it decides, by what it knew.
	peer = m.StartKubeProxy(m.files)
	cluster.EventuallyTrue(t, "kube-proxy has programmed", cluster.KubeProxyTablesContain("-default/empty/tcp/talk"))
	peer.End(syscall.SIGTERM)
	m.serve("empty", 2)
	m.awaitEndpoints("empty", 2)
	m.checkAnswers(first, backendAddr(3))
	m.runNfproxy("cleanup", "--kube-proxy")
	m.checkAnswers(first, backendAddr(2))

	// nfproxy's chains were made last, and it ends: so does it.
	agent.Stop()
	m.runNfproxy("cleanup")
	m.StartKubeProxy(m.files)
	cluster.EventuallyTrue(t, "kube-proxy has programmed", cluster.KubeProxyTablesContain("-default/empty/tcp/talk"))
	agent = m.node.start(t)
	m.awaitEndpoints("empty", 2)
	agent.Stop()
	m.service("new", "", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "talk", Port: 81}}})
	m.serve("new", 1)
	cluster.EventuallyTrue(t, "kube-proxy follows", cluster.KubeProxyTablesContain("-default/new/tcp/talk"))
	fresh := access{"a new Service", "tcp", m.client.Namespace, m.ip["new"] + ":81", "10.244.1.99"}
	m.checkUnanswered(fresh)
	m.runNfproxy("cleanup")
	m.checkAnswers(fresh, backendAddr(1))
}

// letIn sets the source ranges of Service ranges.
func (m *migration) setSourceRanges(ranges ...string) {
	m.T.Helper()
	s, err := m.CoreV1().Services("default").Get(m.T.Context(), "ranges", metav1.GetOptions{})
	if err == nil {
		s.Spec.LoadBalancerSourceRanges = ranges
		_, err = m.CoreV1().Services("default").Update(m.T.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		m.T.Fatal(err)
	}
}

// reaches fails the test unless twenty connections are answered by these endpoints and no others.
func (m *migration) checkAnswers(w access, endpoints ...string) {
	m.T.Helper()
	got := m.answers(w, 20)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, endpoints) {
		m.T.Errorf("%s: answered by %v, not by %v", w.name, got, endpoints)
	}
}

// unanswered fails the test if a connection is accepted, or refused, within a second: the first packet is sent once.
func (m *migration) checkUnanswered(w access) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(m.T.Context(), 900*time.Millisecond)
	defer cancel()
	conn, err := w.from.Dial(ctx, w.network, "", w.to)
	if err == nil {
		conn.Close()
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		m.T.Errorf("%s: %v, and is to have no answer", w.name, err)
	}
}
