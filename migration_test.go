package main

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

	"nfproxy/integration/sandbox"
)

// migration is a node that goes from kube-proxy to nfproxy and back, while clients connect all the time.
type migration struct {
	*ways
	files map[string]string // kubeadm's ConfigMap, for both
	node  *container        // nfproxy's
	open  []*conversation   // since kube-proxy was alone
	load  map[string]*callers
}

// newMigration starts kube-proxy alone, and what connects.
func newMigration(t *testing.T, mode string) (*migration, *process) {
	c := newDeployment(t)
	c.applyAll(readManifest(t, kubeadmManifest))
	m := &migration{ways: newWays(c), files: kubeadmFiles(t, mode), load: map[string]*callers{}}
	m.node = c.kubelet(m.files)
	peer := c.kubeProxy(m.files)
	texts := []string{m.ip["empty"], backendAddr(0), rangeIP, "fd00:10:244:7::1"}
	programmed := kubeProxyHas(texts...)
	if mode != nftablesMode {
		programmed = iptablesHave(t, texts...)
	}
	eventuallyTrue(t, "kube-proxy has programmed", programmed)
	return m, peer
}

// begin opens connections that stay, and starts those that come and go.
func (m *migration) begin() {
	m.t.Helper()
	for _, way := range m.all() {
		c, err := talk(m.t, way)
		if err == nil {
			_, err = c.ask()
		}
		if err != nil {
			m.t.Fatalf("%s: %v", way.name, err)
		}
		m.open = append(m.open, c)
	}
	m.t.Cleanup(func() {
		for _, c := range m.open {
			c.Close()
		}
	})
	m.load["cluster IP"] = call(m.t, 2, m.client.Namespace, m.ip["web"]+":80")
	m.load["node port"] = call(m.t, 2, m.outside.Namespace, nodePortGreeting)
	udp := way{"UDP", "udp", m.client.Namespace, m.ip["dns"] + ":53", "10.244.1.99"}
	m.load["UDP"] = callBy(m.t, 1, func(context.Context) (string, error) {
		c, err := talk(m.t, udp)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.ask()
	})
}

// well fails the test unless connections begin and go on as they should, now.
func (m *migration) well(when string) {
	m.t.Helper()
	m.look(when)
	for _, c := range m.open {
		if _, err := c.ask(); err != nil {
			m.t.Errorf("%s: open since kube-proxy was alone: %s: %v", when, c.name, err)
		}
	}
	for _, l := range m.load {
		l.more(m.t, 20)
	}
}

// nobodyNoticed ends the load, none of which has failed or has had to send its first packet twice.
func (m *migration) nobodyNoticed() {
	m.t.Helper()
	for name, l := range m.load {
		failed := l.stop()
		m.t.Logf("%s: %d connections, %d failed", name, l.total, len(failed))
		if len(failed) > 0 {
			m.t.Errorf("%s: %d connections of %d failed: %s", name, len(failed), l.total, strings.Join(failed[:min(3, len(failed))], "; "))
		}
	}
	for _, pod := range []*sandbox.Pod{m.client, m.outside} {
		if n := repeatedSYNs(m.t, pod); n != "0" {
			m.t.Errorf("%s: %s first packets were sent again", pod.Name, n)
		}
	}
}

// repeatedSYNs is how many first packets of TCP connections a namespace has had to send again.
func repeatedSYNs(t testing.TB, pod *sandbox.Pod) (n string) {
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
func (m *migration) nfproxyDoes(args ...string) string {
	m.t.Helper()
	exec := *m.node
	exec.Args = append([]string{"/nfproxy"}, args...)
	p := exec.start(m.t)
	err := <-p.done
	if p.done <- err; err != nil {
		m.t.Errorf("nfproxy %v: %v\n%s", args, err, p.log)
	}
	return p.log.String()
}

// ours are nfproxy's tables, without counters.
func (m *migration) ours() string {
	m.t.Helper()
	out4, err4 := command("nft", "-s", "list", "table", "ip", "nfproxy")
	out6, err6 := command("nft", "-s", "list", "table", "ip6", "nfproxy")
	if err := errors.Join(err4, err6); err != nil {
		m.t.Fatal(err, out4, out6)
	}
	return out4 + out6
}

// follow waits until nfproxy has these endpoints of a Service and no others.
func (m *migration) follow(service string, backends ...int) {
	m.t.Helper()
	var want []string
	for _, i := range backends {
		want = append(want, backendAddr(i)+":8081")
	}
	m.programmedAt(m.ip[service]+":81", want...)
}

// TestBesideKubeProxy: from the real kube-proxy to nfproxy and back, twice, both told by one file, kubeadm's: nobody who
// connects ever notices, and what is open goes on.
func TestBesideKubeProxy(t *testing.T) {
	m, peer := newMigration(t, nftablesMode)
	m.begin()
	m.well("kube-proxy alone")

	agent := m.node.start(t)
	eventuallyTrue(t, "nfproxy has programmed", m.tables(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	for _, server := range []string{"healthz", "metrics"} { // kube-proxy has their ports
		agent.says(`msg="server does not serve" server=` + server)
	}
	m.well("both")
	m.serve("web", 1, 2)
	m.follow("web", 1, 2)
	eventuallyTrue(t, "kube-proxy follows", kubeProxyHas(backendAddr(2)+" . 8080")) // web alone has this port
	eventuallyTrue(t, "kube-proxy follows", not(kubeProxyHas(backendAddr(0)+" . 8080")))
	m.reaches(m.all()[0], backendAddr(1), backendAddr(2))
	m.well("both, after a change")

	peer.end(syscall.SIGTERM)
	answers(t, 10256, "/readyz", 200, "ok") // the ports come to nfproxy
	answers(t, 10249, "/metrics", 200, "nfproxy_event_to_commit_seconds_count")
	eventuallyTrue(t, "the health check node port comes to nfproxy", func() (bool, string) {
		status, body := fetchAt(nodeAddr, localHealth, "/")
		return status == 200 && strings.Contains(body, `"localEndpoints": 2`), fmt.Sprint(status, body)
	})
	m.well("kube-proxy has ended")
	m.serve("web", 2, 3)
	m.follow("web", 2, 3)
	m.reaches(m.all()[0], backendAddr(2), backendAddr(3))
	m.well("a change since kube-proxy has ended")
	if out := m.nfproxyDoes("cleanup", "--kube-proxy"); out != "removed table ip kube-proxy\nremoved table ip6 kube-proxy\n" {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	hasTables(t, "ip nfproxy", "ip6 nfproxy")
	m.well("nfproxy alone")
	if out := m.nfproxyDoes("dump", "--diff", "--config=/var/lib/kube-proxy/config.conf", "--hostname-override="+clusterNode); out != "" {
		t.Errorf("nfproxy dump --diff: %s", out)
	}

	peer = m.kubeProxy(m.files) // the way back
	eventuallyTrue(t, "kube-proxy has programmed", kubeProxyHas(rangeIP, backendAddr(3)+" . 8080"))
	m.well("both, on the way back")
	agent.stop()
	answers(t, 10256, "/healthz", 200, "lastUpdated")
	m.well("nfproxy has ended")
	if out := m.nfproxyDoes("cleanup"); out != "removed table ip nfproxy\nremoved table ip6 nfproxy\n" {
		t.Errorf("nfproxy cleanup: %q", out)
	}
	hasTables(t, "ip kube-proxy", "ip6 kube-proxy")
	m.well("kube-proxy alone again")

	agent = m.node.start(t) // and once more, and kube-proxy cleans up after itself
	eventuallyTrue(t, "nfproxy has programmed", m.tables(rangeIP, backendAddr(3)+":8081"))
	peer.end(syscall.SIGTERM)
	before := m.ours()
	m.cleansUp()
	hasTables(t, "ip nfproxy", "ip6 nfproxy")
	if after := m.ours(); after != before {
		t.Errorf("kube-proxy --cleanup changed nfproxy's tables from\n%sto\n%s", before, after)
	}
	m.well("nfproxy alone, after kube-proxy --cleanup")
	m.nobodyNoticed()
	agent.stop()
}

// TestBesideIptables: the same from kube-proxy in iptables mode, which kubeadm's ConfigMap means if nobody says another.
func TestBesideIptables(t *testing.T) {
	m, peer := newMigration(t, noMode)
	m.begin()
	m.well("kube-proxy alone")
	agent := m.node.start(t)
	eventuallyTrue(t, "nfproxy has programmed", m.tables(rangeIP, backendAddr(0)+":8081", "fd00:10:244:7::1"))
	m.well("both")
	peer.end(syscall.SIGTERM)
	m.serve("web", 2, 3)
	m.follow("web", 2, 3)
	m.reaches(m.all()[0], backendAddr(2), backendAddr(3))
	m.well("a change since kube-proxy has ended")
	if out := m.nfproxyDoes("cleanup", "--kube-proxy"); !strings.HasPrefix(out, "left, ") || !strings.Contains(out, "kube-proxy --cleanup") {
		t.Errorf("nfproxy cleanup --kube-proxy: %q", out)
	}
	before := m.ours()
	m.cleansUp()
	if ok, rules := iptablesHave(t, "KUBE-SVC-")(); ok {
		t.Errorf("kube-proxy --cleanup leaves\n%s", rules)
	}
	if after := m.ours(); after != before {
		t.Errorf("kube-proxy --cleanup changed nfproxy's tables from\n%sto\n%s", before, after)
	}
	m.well("nfproxy alone, after kube-proxy --cleanup")
	m.nobodyNoticed()
	agent.stop()
}

// cleansUp lets kube-proxy remove what it left.
func (m *migration) cleansUp() {
	m.t.Helper()
	cleaner := m.kubeProxy(m.files, "--cleanup")
	err := <-cleaner.done
	if cleaner.done <- err; err != nil {
		m.t.Errorf("kube-proxy --cleanup: %v\n%s", err, cleaner.log)
	}
}

// TestStaleRules: of two that translate, whose chains were made last decides, and of one that has ended the rules decide by
// what it knew: what that breaks, that check says it, and that the removal of the rules is the cure.
func TestStaleRules(t *testing.T) {
	m, peer := newMigration(t, nftablesMode)
	agent := m.node.start(t)
	eventuallyTrue(t, "nfproxy has programmed", m.tables(rangeIP, backendAddr(0)+":8081"))
	peer.end(syscall.SIGTERM)
	web := way{"cluster IP", "tcp", m.client.Namespace, m.ip["web"] + ":81", "10.244.1.99"}
	atNode := way{"node port", "tcp", m.outside.Namespace, nodePort, nodeAddr}
	late := way{"let in late", "tcp", m.client.Namespace, rangeIP + ":81", nodeAddr}
	first := way{"a first endpoint", "tcp", m.client.Namespace, m.ip["empty"] + ":81", "10.244.1.99"}

	// nfproxy's chains were made last: it decides wherever it knows the destination.
	m.serve("web", 2)
	m.serve("empty", 3)
	m.letIn("198.51.100.0/24", "10.244.0.0/16")
	m.follow("web", 2)
	m.follow("empty", 3)
	eventuallyTrue(t, "nfproxy follows", listed("nfproxy", rangeIP+" . tcp . 81 . 10.244.0.0/16"))
	m.reaches(web, backendAddr(2))
	m.reaches(atNode, backendAddr(2))
	m.reaches(first, backendAddr(3)) // which kube-proxy would refuse
	m.unanswered(late)               // kube-proxy's source ranges are asked before anybody translates
	if err := m.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventuallyTrue(t, "nfproxy follows", not(m.tables(m.ip["web"])))
	m.unanswered(web)                                 // an address of the service CIDR that no Service has
	m.reaches(atNode, backendAddr(0), backendAddr(1)) // the Service that there is not any more, for kube-proxy's rules
	if out := m.nfproxyDoes("check"); !strings.Contains(out, "table ip kube-proxy, ip6 kube-proxy: its rules decide as well") {
		t.Errorf("nfproxy check says nothing of kube-proxy's tables:\n%s", out)
	}
	m.nfproxyDoes("cleanup", "--kube-proxy")
	m.reaches(late, backendAddr(0), backendAddr(1))
	if _, err := talk(t, atNode); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the node port of a Service that is gone: %v", err)
	}

	// kube-proxy's chains were made last, and it ends: it decides, by what it knew.
	peer = m.kubeProxy(m.files)
	eventuallyTrue(t, "kube-proxy has programmed", kubeProxyHas("-default/empty/tcp/talk"))
	peer.end(syscall.SIGTERM)
	m.serve("empty", 2)
	m.follow("empty", 2)
	m.reaches(first, backendAddr(3))
	m.nfproxyDoes("cleanup", "--kube-proxy")
	m.reaches(first, backendAddr(2))

	// nfproxy's chains were made last, and it ends: so does it.
	agent.stop()
	m.nfproxyDoes("cleanup")
	m.kubeProxy(m.files)
	eventuallyTrue(t, "kube-proxy has programmed", kubeProxyHas("-default/empty/tcp/talk"))
	agent = m.node.start(t)
	m.follow("empty", 2)
	agent.stop()
	m.service("new", "", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "talk", Port: 81}}})
	m.serve("new", 1)
	eventuallyTrue(t, "kube-proxy follows", kubeProxyHas("-default/new/tcp/talk"))
	fresh := way{"a new Service", "tcp", m.client.Namespace, m.ip["new"] + ":81", "10.244.1.99"}
	m.unanswered(fresh)
	m.nfproxyDoes("cleanup")
	m.reaches(fresh, backendAddr(1))
}

// letIn sets the source ranges of Service ranges.
func (m *migration) letIn(ranges ...string) {
	m.t.Helper()
	s, err := m.CoreV1().Services("default").Get(m.t.Context(), "ranges", metav1.GetOptions{})
	if err == nil {
		s.Spec.LoadBalancerSourceRanges = ranges
		_, err = m.CoreV1().Services("default").Update(m.t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// reaches fails the test unless twenty connections are answered by these endpoints and no others.
func (m *migration) reaches(w way, endpoints ...string) {
	m.t.Helper()
	got := m.reached(w, 20)
	if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, endpoints) {
		m.t.Errorf("%s: answered by %v, not by %v", w.name, got, endpoints)
	}
}

// unanswered fails the test if a connection is accepted, or refused, within a second: the first packet is sent once.
func (m *migration) unanswered(w way) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 900*time.Millisecond)
	defer cancel()
	conn, err := w.from.Dial(ctx, w.network, "", w.to)
	if err == nil {
		conn.Close()
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		m.t.Errorf("%s: %v, and is to have no answer", w.name, err)
	}
}
