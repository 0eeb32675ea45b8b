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

// migration is a node that moves from kube-proxy to nfproxy and back while clients connect all the time.
type migration struct {
	*testServices
	files   map[string]string           // kubeadm's ConfigMap, which both proxies use
	nfproxy *container                  // the container of nfproxy
	open    []*connection               // connections opened while only kube-proxy was running
	clients map[string]*cluster.Clients // by what they connect to
}

// newMigration creates the Services, starts kube-proxy and waits until it has programmed them.
func newMigration(t *testing.T, mode string) (*migration, *cluster.Process) {
	c := newDeployment(t)
	c.ApplyAll(cluster.ReadManifest(t, cluster.KubeadmManifest))
	m := &migration{testServices: newTestServices(c), files: cluster.KubeadmConfigFiles(t, mode), clients: map[string]*cluster.Clients{}}
	m.nfproxy = c.daemonSetContainer(m.files)
	kubeProxy := c.StartKubeProxy(m.files)
	texts := []string{m.ip["empty"], backendAddr(0), rangeIP, "fd00:10:244:7::1"}
	programmed := cluster.KubeProxyTablesContain(texts...)
	if mode != cluster.NftablesMode {
		programmed = cluster.IptablesContain(t, texts...)
	}
	cluster.EventuallyTrue(t, "kube-proxy has programmed the Services", programmed)
	return m, kubeProxy
}

// startClients opens the connections that must survive and starts the clients that make new ones.
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

// check fails the test unless new connections succeed and the open ones continue.
func (m *migration) check(when string) {
	m.T.Helper()
	m.checkAll(when)
	for _, c := range m.open {
		if _, err := c.ask(); err != nil {
			m.T.Errorf("%s: connection opened while only kube-proxy was running: %s: %v", when, c.name, err)
		}
	}
	for _, l := range m.clients {
		l.AwaitMore(m.T, 20)
	}
}

// stopClients ends the clients and fails the test if a connection failed or retransmitted its first packet.
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
			m.T.Errorf("%s: %s first packets were retransmitted", pod.Name, n)
		}
	}
}

// synRetransmissions returns the number of SYN packets that a namespace has retransmitted.
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

// runNfproxy runs another command of nfproxy in its container, as kubectl exec does, and returns what it prints.
func (m *migration) runNfproxy(args ...string) string {
	m.T.Helper()
	exec := *m.nfproxy
	exec.Args = append([]string{"/nfproxy"}, args...)
	p := exec.start(m.T)
	err := <-p.Done
	if p.Done <- err; err != nil {
		m.T.Errorf("nfproxy %v: %v\n%s", args, err, p.Log)
	}
	return p.Log.String()
}

// nfproxyTables returns nfproxy's tables as nft lists them, without counters.
func (m *migration) nfproxyTables() string {
	m.T.Helper()
	out4, err4 := cluster.CombinedOutput("nft", "-s", "list", "table", "ip", "nfproxy")
	out6, err6 := cluster.CombinedOutput("nft", "-s", "list", "table", "ip6", "nfproxy")
	if err := errors.Join(err4, err6); err != nil {
		m.T.Fatal(err, out4, out6)
	}
	return out4 + out6
}

// awaitEndpoints waits until nfproxy has programmed exactly these pods, by their indexes, for a Service.
func (m *migration) awaitEndpoints(service string, backends ...int) {
	m.T.Helper()
	var want []string
	for _, i := range backends {
		want = append(want, backendAddr(i)+":8081")
	}
	m.AwaitFrontend(m.ip[service]+":81", want...)
}

// TestBesideKubeProxy: a node moves from the real kube-proxy in nftables mode to nfproxy and back, and to nfproxy again, both
// with kubeadm's configuration file. No connection fails, and open connections continue.
func TestBesideKubeProxy(t *testing.T) {
	m, kubeProxy := newMigration(t, cluster.NftablesMode)
	m.startClients()
	m.check("kube-proxy alone")

	agent := m.nfproxy.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed the Services", m.DumpContains(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	for _, server := range []string{"healthz", "metrics"} { // kube-proxy occupies their ports
		agent.AwaitLog(`msg="server is not listening" server=` + server)
	}
	m.check("both")
	m.serve("web", 1, 2)
	m.awaitEndpoints("web", 1, 2)
	cluster.EventuallyTrue(t, "kube-proxy has programmed the change", cluster.KubeProxyTablesContain(backendAddr(2)+" . 8080")) // only Service web has this port
	cluster.EventuallyTrue(t, "kube-proxy has programmed the change", cluster.Not(cluster.KubeProxyTablesContain(backendAddr(0)+" . 8080")))
	m.checkAnswers(m.accesses()[0], backendAddr(1), backendAddr(2))
	m.check("both, after a change")

	kubeProxy.End(syscall.SIGTERM)
	cluster.AwaitAnswer(t, 10256, "/readyz", 200, "ok") // nfproxy takes the ports over
	cluster.AwaitAnswer(t, 10249, "/metrics", 200, "nfproxy_event_to_commit_seconds_count")
	cluster.EventuallyTrue(t, "nfproxy serves the health check node port", func() (bool, string) {
		status, body := cluster.FetchAt(nodeAddr, localHealth, "/")
		return status == 200 && strings.Contains(body, `"localEndpoints": 2`), fmt.Sprint(status, body)
	})
	m.check("after the end of kube-proxy")
	m.serve("web", 2, 3)
	m.awaitEndpoints("web", 2, 3)
	m.checkAnswers(m.accesses()[0], backendAddr(2), backendAddr(3))
	m.check("after a change without kube-proxy")
	if out := m.runNfproxy("cleanup", "--kube-proxy"); out != "removed table ip kube-proxy\nremoved table ip6 kube-proxy\n" {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	cluster.CheckTables(t, "ip nfproxy", "ip6 nfproxy")
	m.check("nfproxy alone")
	if out := m.runNfproxy("dump", "--diff", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override="+cluster.NodeName); out != "" {
		t.Errorf("nfproxy dump --diff reports a difference: %s", out)
	}

	kubeProxy = m.StartKubeProxy(m.files) // back to kube-proxy
	cluster.EventuallyTrue(t, "kube-proxy has programmed the Services", cluster.KubeProxyTablesContain(rangeIP, backendAddr(3)+" . 8080"))
	m.check("both, before the return to kube-proxy")
	agent.Stop()
	cluster.AwaitAnswer(t, 10256, "/healthz", 200, "lastUpdated")
	m.check("after the end of nfproxy")
	if out := m.runNfproxy("cleanup"); out != "removed table ip nfproxy\nremoved table ip6 nfproxy\n" {
		t.Errorf("nfproxy cleanup: %q", out)
	}
	cluster.CheckTables(t, "ip kube-proxy", "ip6 kube-proxy")
	m.check("kube-proxy alone again")

	agent = m.nfproxy.start(t) // to nfproxy again; kube-proxy --cleanup removes the rules of kube-proxy
	cluster.EventuallyTrue(t, "nfproxy has programmed the Services", m.DumpContains(rangeIP, backendAddr(3)+":8081"))
	kubeProxy.End(syscall.SIGTERM)
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

// TestBesideIptables: the same for kube-proxy in iptables mode, which is the default of kubeadm's ConfigMap.
func TestBesideIptables(t *testing.T) {
	m, kubeProxy := newMigration(t, cluster.DefaultMode)
	m.startClients()
	m.check("kube-proxy alone")
	agent := m.nfproxy.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed the Services", m.DumpContains(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	m.check("both")
	kubeProxy.End(syscall.SIGTERM)
	m.serve("web", 2, 3)
	m.awaitEndpoints("web", 2, 3)
	m.checkAnswers(m.accesses()[0], backendAddr(2), backendAddr(3))
	m.check("after a change without kube-proxy")
	if out := m.runNfproxy("cleanup", "--kube-proxy"); !strings.HasPrefix(out, "not removed: ") || !strings.Contains(out, "kube-proxy --cleanup") {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	before := m.nfproxyTables()
	m.cleanUpKubeProxy()
	if ok, rules := cluster.IptablesContain(t, "KUBE-SVC-")(); ok {
		t.Errorf("kube-proxy --cleanup leaves rules: %s", rules)
	}
	if after := m.nfproxyTables(); after != before {
		t.Errorf("kube-proxy --cleanup changed nfproxy's tables from\n%sto\n%s", before, after)
	}
	m.check("nfproxy alone, after kube-proxy --cleanup")
	m.stopClients()
	agent.Stop()
}

// cleanUpKubeProxy runs kube-proxy --cleanup.
func (m *migration) cleanUpKubeProxy() {
	m.T.Helper()
	cleaner := m.StartKubeProxy(m.files, "--cleanup")
	err := <-cleaner.Done
	if cleaner.Done <- err; err != nil {
		m.T.Errorf("kube-proxy --cleanup: %v\n%s", err, cleaner.Log)
	}
}

// TestStaleRules: if two proxies translate, the one whose chains were created last decides. The rules of a proxy that has
// ended still decide, by its last state: the test shows what that breaks, that nfproxy check reports it, and that removing
// the rules repairs it.
func TestStaleRules(t *testing.T) {
	m, kubeProxy := newMigration(t, cluster.NftablesMode)
	agent := m.nfproxy.start(t)
	cluster.EventuallyTrue(t, "nfproxy has programmed the Services", m.DumpContains(rangeIP, backendAddr(0)+":8081"))
	kubeProxy.End(syscall.SIGTERM)
	web := access{"cluster IP", "tcp", m.client.Namespace, m.ip["web"] + ":81", "10.244.1.99"}
	atNode := access{"node port", "tcp", m.outside.Namespace, nodePort, nodeAddr}
	admittedLater := access{"source admitted later", "tcp", m.client.Namespace, rangeIP + ":81", nodeAddr}
	firstEndpoint := access{"first endpoint of a Service", "tcp", m.client.Namespace, m.ip["empty"] + ":81", "10.244.1.99"}

	// nfproxy's chains were created last: nfproxy decides wherever it knows the destination.
	m.serve("web", 2)
	m.serve("empty", 3)
	m.setSourceRanges("198.51.100.0/24", "10.244.0.0/16")
	m.awaitEndpoints("web", 2)
	m.awaitEndpoints("empty", 3)
	cluster.EventuallyTrue(t, "nfproxy has programmed the change", cluster.TablesContain("nfproxy", rangeIP+" . tcp . 81 . 10.244.0.0/16"))
	m.checkAnswers(web, backendAddr(2))
	m.checkAnswers(atNode, backendAddr(2))
	m.checkAnswers(firstEndpoint, backendAddr(3)) // kube-proxy would refuse it
	m.checkUnanswered(admittedLater)              // kube-proxy checks its source ranges before any translation
	if err := m.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	cluster.EventuallyTrue(t, "nfproxy has programmed the change", cluster.Not(m.DumpContains(m.ip["web"])))
	m.checkAnswers(web, backendAddr(0), backendAddr(1)) // kube-proxy's rules still have the deleted Service
	m.checkAnswers(atNode, backendAddr(0), backendAddr(1))
	if out := m.runNfproxy("check"); !strings.Contains(out, "kube-proxy tables: ip kube-proxy, ip6 kube-proxy; their rules still apply") {
		t.Errorf("nfproxy check does not report kube-proxy's tables:\n%s", out)
	}
	m.runNfproxy("cleanup", "--kube-proxy")
	m.checkUnanswered(web) // an address of the service CIDR without a Service
	m.checkAnswers(admittedLater, backendAddr(0), backendAddr(1))
	if _, err := connect(t, atNode); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("node port of a deleted Service: %v, want %v", err, syscall.ECONNREFUSED)
	}

	// kube-proxy's chains were created last and it has ended: its rules decide, by its last state.
	kubeProxy = m.StartKubeProxy(m.files)
	cluster.EventuallyTrue(t, "kube-proxy has programmed the Services", cluster.KubeProxyTablesContain("-default/empty/tcp/talk"))
	kubeProxy.End(syscall.SIGTERM)
	m.serve("empty", 2)
	m.awaitEndpoints("empty", 2)
	m.checkAnswers(firstEndpoint, backendAddr(3))
	m.runNfproxy("cleanup", "--kube-proxy")
	m.checkAnswers(firstEndpoint, backendAddr(2))

	// nfproxy's chains were created last and it has ended: its rules decide, by its last state.
	agent.Stop()
	m.runNfproxy("cleanup")
	m.StartKubeProxy(m.files)
	cluster.EventuallyTrue(t, "kube-proxy has programmed the Services", cluster.KubeProxyTablesContain("-default/empty/tcp/talk"))
	agent = m.nfproxy.start(t)
	m.awaitEndpoints("empty", 2)
	agent.Stop()
	m.serve("empty", 1)
	m.service("new", "", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "talk", Port: 81}}})
	m.serve("new", 1)
	cluster.EventuallyTrue(t, "kube-proxy has programmed the change", cluster.KubeProxyTablesContain("-default/new/tcp/talk"))
	m.checkAnswers(firstEndpoint, backendAddr(2))
	m.checkAnswers(access{"new Service", "tcp", m.client.Namespace, m.ip["new"] + ":81", "10.244.1.99"}, backendAddr(1)) // only kube-proxy knows it
	m.runNfproxy("cleanup")
	m.checkAnswers(firstEndpoint, backendAddr(1))
}

// setSourceRanges sets loadBalancerSourceRanges of Service ranges.
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

// checkAnswers fails the test unless exactly these endpoints, two at most, answer forty connections. Of two, a fair choice misses one with a
// probability below 10^-11.
func (m *migration) checkAnswers(w access, endpoints ...string) {
	m.T.Helper()
	got := m.answers(w, 40)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, endpoints) {
		m.T.Errorf("%s: endpoints %v answered, want %v", w.name, got, endpoints)
	}
}

// checkUnanswered fails the test unless a connection gets no answer, neither an acceptance nor a refusal, before the first
// packet is retransmitted after a second.
func (m *migration) checkUnanswered(w access) {
	m.T.Helper()
	ctx, cancel := context.WithTimeout(m.T.Context(), 900*time.Millisecond)
	defer cancel()
	conn, err := w.from.Dial(ctx, w.network, "", w.to)
	if err == nil {
		conn.Close()
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		m.T.Errorf("%s: got %v, want a timeout", w.name, err)
	}
}
