package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"nfproxy/conntrack"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft"
	"nfproxy/sandbox"
)

// proxyNameLabel assigns a Service to the proxy of a name.
const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

// TestServiceProxyName: with --service-proxy-name, nfproxy runs beside the real kube-proxy in one network namespace. Each proxy serves
// its own Services and refuses connections to those without endpoints, a Service moves from one to the other when its label
// changes, and each can be removed without the other.
func TestServiceProxyName(t *testing.T) {
	for _, mode := range []string{NftablesMode, DefaultMode} {
		for _, nfproxyFirst := range []bool{false, true} { // the chains of the later one are called first
			t.Run(fmt.Sprintf("mode=%s/nfproxyFirst=%v", mode, nfproxyFirst), func(t *testing.T) { testServiceProxyName(t, mode, nfproxyFirst) })
		}
	}
}

func testServiceProxyName(t *testing.T, mode string, nfproxyFirst bool) {
	b := newTwoProxies(t, mode, nfproxyFirst)
	b.checkServed("both proxies run")
	b.checkOwners(map[string]bool{"ours": true, "theirs": false, "ours-empty": true, "theirs-empty": false})
	b.checkOther()

	b.checkShared(nfproxyFirst)

	conn := b.talk("ours")
	flows := map[string]*talking{"ours": b.talkUDP("ours"), "theirs": b.talkUDP("theirs")}
	start := func() *Clients { return StartClients(t, 2, b.client.Namespace, b.frontend("ours", 4)) }
	var clients *Clients
	if mode == NftablesMode { // in mode iptables, connections that begin before kube-proxy has the Service leave untranslated
		clients = start()
	}
	b.setLabel("ours", "")
	b.checkOwners(map[string]bool{"ours": false, "theirs": false, "ours-empty": true})
	b.checkServed("Service ours has moved to kube-proxy")
	b.checkFlows(flows, "Service ours has moved to kube-proxy")
	if clients == nil {
		clients = start()
		clients.AwaitMore(t, 20)
	}
	b.setLabel("ours", "blue")
	b.setLabel("theirs", "blue")
	b.checkOwners(map[string]bool{"ours": true, "theirs": true, "theirs-empty": false})
	b.checkServed("both Services have moved to nfproxy")
	b.checkFlows(flows, "both Services have moved to nfproxy")
	b.setLabel("theirs", "")
	b.checkOwners(map[string]bool{"ours": true, "theirs": false})
	clients.AwaitMore(t, 20)
	if failed := clients.Stop(); len(failed) > 0 {
		t.Errorf("while the Service moved, %d connections of %d failed: %s", len(failed), clients.Total, strings.Join(failed[:min(3, len(failed))], "; "))
	}
	if err := conn.ask(); err != nil {
		t.Errorf("a connection that was opened before the Service moved: %v", err)
	}
	b.checkEvents()
	b.checkCleanup()
}

// twoProxies is a node on which kube-proxy and nfproxy with the name blue run.
type twoProxies struct {
	*Cluster
	nfproxy         *Process
	kubeProxyText   func(texts ...string) Condition // kube-proxy's rules contain texts
	client, outside *sandbox.Pod
	services        map[string]*corev1.Service
}

func newTwoProxies(t *testing.T, mode string, nfproxyFirst bool) *twoProxies {
	t.Helper()
	c := New(t)
	t.Cleanup(func() { b := []string{"cleanup", "--service-proxy-name", "blue"}; _ = Command(t, b...).Run() })
	c.StartControllerManager() // writes the EndpointSlices
	c.ApplyAll(ReadManifest(t, KubeadmManifest))
	b := &twoProxies{Cluster: c, kubeProxyText: KubeProxyTablesContain, services: map[string]*corev1.Service{}}
	t.Cleanup(func() { removeKubeProxy(t, mode) })
	if mode != NftablesMode {
		b.kubeProxyText = func(texts ...string) Condition { return IptablesContain(t, texts...) }
	}
	b.addService("ours", "blue", 30080)
	b.addService("theirs", "", 30081)
	b.addService("ours-empty", "blue", 30082)
	b.addService("theirs-empty", "", 30083)
	b.addService("others", "green", 30084)
	for i, name := range []string{"ours", "theirs", "others"} {
		v4, v6 := fmt.Sprintf("10.244.7.%d", i+1), fmt.Sprintf("fd00:10:244:7::%d", i+1)
		pod := c.AddPod("default", "backend-"+name, map[string]string{"app": name}, v4, v6)
		for _, addr := range []string{v4, v6} {
			ServeGreeting(t, pod, net.JoinHostPort(addr, "8080"), name)
			ServeUDPEcho(t, pod, net.JoinHostPort(addr, "5353"))
			ServeTCP(t, pod.Namespace, net.JoinHostPort(addr, "8081"), func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
		}
	}
	b.client = c.AddPod("default", "client", nil, "10.244.1.99", "fd00:10:244:1::99")
	b.outside = c.AddPod("default", "outside", nil, "198.51.100.9", "2001:db8:1::9")
	start := []func(){
		func() {
			c.StartKubeProxy(KubeadmConfigFiles(t, mode))
			EventuallyTrue(t, "kube-proxy has programmed its Services", b.kubeProxyText(b.vip("theirs", 4), b.vip("theirs", 6), "10.244.7.2", "fd00:10:244:7::2"))
		},
		func() {
			b.nfproxy = c.startAgent("--service-proxy-name", "blue")
			EventuallyTrue(t, "nfproxy has programmed its Services", b.nfproxyContains("10.244.7.1:8080", "[fd00:10:244:7::1]:8080"))
		},
	}
	if nfproxyFirst {
		start[0], start[1] = start[1], start[0]
	}
	for _, f := range start {
		f()
	}
	return b
}

// removeKubeProxy removes the rules of kube-proxy. It has ended by then.
func removeKubeProxy(t *testing.T, mode string) {
	if mode == NftablesMode {
		if out, err := Command(t, "cleanup", "--kube-proxy").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	for _, table := range []string{"nat", "filter", "mangle"} {
		for _, family := range []string{"ip", "ip6"} {
			_, _ = CombinedOutput("nft", "delete", "table", family, table) // absent if kube-proxy needed none
		}
	}
}

// addService creates a dual-stack Service that selects the Pods of its name, with a port that greets and one that echoes. All have
// the same external IP.
func (b *twoProxies) addService(name, proxy string, nodePort int32) {
	b.T.Helper()
	dual := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &dual, Selector: map[string]string{"app": name},
			ExternalIPs: []string{"203.0.113.1", "2001:db8:203::1"}, Ports: []corev1.ServicePort{
				{Name: "greet", Port: 80, NodePort: nodePort, TargetPort: intstr.FromInt32(8080)},
				{Name: "talk", Port: nodePort, NodePort: nodePort + 10, TargetPort: intstr.FromInt32(8081)},
				{Name: "udp", Port: nodePort, NodePort: nodePort + 10, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5353)}}},
	}
	if proxy != "" {
		s.Labels = map[string]string{proxyNameLabel: proxy}
	}
	if strings.HasSuffix(name, "-empty") || name == "others" {
		s.Spec.ExternalIPs = nil
	}
	s, err := b.CoreV1().Services("default").Create(b.T.Context(), s, metav1.CreateOptions{})
	if err != nil {
		b.T.Fatal(err)
	}
	b.services[name] = s
}

// setLabel assigns a Service to the proxy of a name, to kube-proxy if the name is empty.
func (b *twoProxies) setLabel(service, proxy string) {
	b.T.Helper()
	value := "null"
	if proxy != "" {
		value = fmt.Sprintf("%q", proxy)
	}
	patch := fmt.Sprintf(`{"metadata": {"labels": {%q: %s}}}`, proxyNameLabel, value)
	if _, err := b.CoreV1().Services("default").Patch(b.T.Context(), service, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		b.T.Fatal(err)
	}
}

// vip returns the cluster IP of a Service in a family, 4 or 6.
func (b *twoProxies) vip(service string, family int) string {
	ips := b.services[service].Spec.ClusterIPs
	if strings.Contains(ips[0], ":") == (family == 6) {
		return ips[0]
	}
	return ips[1]
}

func (b *twoProxies) frontend(service string, family int) string {
	return net.JoinHostPort(b.vip(service, family), "80")
}

// nfproxyContains returns the condition that the dump of nfproxy's tables contains texts.
func (b *twoProxies) nfproxyContains(texts ...string) Condition {
	return func() (bool, string) {
		out, _ := Command(b.T, "dump", "--service-proxy-name", "blue").CombinedOutput() // fails if there are no tables
		return containsAll(string(out), texts)
	}
}

// checkOwners waits until the rules of each proxy have exactly the Services that are its own, in both families.
func (b *twoProxies) checkOwners(nfproxy map[string]bool) {
	b.T.Helper()
	for service, ours := range nfproxy {
		for _, family := range []int{4, 6} {
			vip := b.vip(service, family)
			own, other := b.nfproxyContains(b.frontend(service, family)), b.kubeProxyText(vip)
			if !ours {
				own, other = other, own
			}
			EventuallyTrue(b.T, fmt.Sprintf("a proxy has %s at %s, nfproxy: %v", service, vip, ours), own)
			EventuallyTrue(b.T, fmt.Sprintf("the other proxy lacks %s at %s", service, vip), Not(other))
		}
	}
}

// checkServed fails the test unless new connections to all Services meet their own endpoints, at all kinds of addresses and in both
// families, and those to Services without endpoints are refused.
func (b *twoProxies) checkServed(when string) {
	b.T.Helper()
	nodePorts := map[string]string{"ours": "30080", "theirs": "30081"}
	for service, nodePort := range nodePorts {
		for _, way := range []struct {
			from *sandbox.Pod
			to   string
		}{
			{b.client, b.frontend(service, 4)}, {b.client, b.frontend(service, 6)},
			{b.outside, "192.0.2.10:" + nodePort}, {b.outside, "[2001:db8::10]:" + nodePort},
		} {
			for range 5 {
				if got, err := ReadGreeting(b.T.Context(), way.from.Namespace, way.to); err != nil || got != service {
					b.T.Errorf("%s: %s from %s: %q, %v", when, way.to, way.from.Name, got, err)
				}
			}
		}
		for _, addr := range []string{"203.0.113.1", "2001:db8:203::1"} { // an external IP that both proxies have
			if err := b.echo(b.outside, net.JoinHostPort(addr, nodePort)); err != nil {
				b.T.Errorf("%s: external IP %s of %s: %v", when, addr, service, err)
			}
		}
	}
	for _, service := range []string{"ours-empty", "theirs-empty"} {
		for _, family := range []int{4, 6} {
			if _, err := ReadGreeting(b.T.Context(), b.client.Namespace, b.frontend(service, family)); !errors.Is(err, syscall.ECONNREFUSED) {
				b.T.Errorf("%s: %s without endpoints: %v, want a refused connection", when, b.frontend(service, family), err)
			}
		}
	}
}

// checkOther fails the test unless nfproxy refuses the ports that its Services lack, leaves all other addresses of the service
// CIDRs alone, and serves no Service of another name.
func (b *twoProxies) checkOther() {
	b.T.Helper()
	for _, family := range []int{4, 6} {
		at := net.JoinHostPort(b.vip("ours", family), "9999")
		if _, err := ReadGreeting(b.T.Context(), b.client.Namespace, at); !errors.Is(err, syscall.ECONNREFUSED) {
			b.T.Errorf("%s: %v, want a refused connection: no Service has the port", at, err)
		}
		table := map[int]string{4: "ip", 6: "ip6"}[family]
		out, err := CombinedOutput("nft", "list", "set", table, "nfproxy/blue", "service-cidrs")
		if err != nil || strings.Contains(out, "elements") {
			b.T.Errorf("addresses that belong to no Service of nfproxy are dropped: %v\n%s", err, out)
		}
		all, err := CombinedOutput("nft", "list", "table", table, "nfproxy/blue")
		if err != nil || strings.Contains(all, b.vip("others", family)) {
			b.T.Errorf("nfproxy serves a Service of another name: %v\n%s", err, all)
		}
	}
	if status, _ := Fetch(10256, "/healthz"); status != 200 {
		b.T.Errorf("kube-proxy's health server answers %d", status)
	}
	if log := b.nfproxy.Log.String(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		b.T.Errorf("nfproxy logs problems:\n%s", log)
	}
}

// checkShared fails the test unless connections to an address and port that Services of both proxies claim reach the Service of the
// proxy whose chains were added last: the kernel calls it first, and calls no other chain once the destination is translated.
func (b *twoProxies) checkShared(nfproxyFirst bool) {
	b.T.Helper()
	want := "ours"
	if nfproxyFirst {
		want = "theirs"
	}
	for _, at := range []string{"203.0.113.1:80", "[2001:db8:203::1]:80"} {
		for range 5 {
			if got, err := ReadGreeting(b.T.Context(), b.outside.Namespace, at); err != nil || got != want {
				b.T.Errorf("%s: %q, %v, want %s", at, got, err, want)
			}
		}
	}
}

// talking is an open connection to a server that echoes lines.
type talking struct {
	net.Conn
	answers *bufio.Reader
}

// talk opens a connection to a Service.
func (b *twoProxies) talk(service string) *talking {
	b.T.Helper()
	c, err := b.dial(b.client, net.JoinHostPort(b.vip(service, 6), fmt.Sprint(b.services[service].Spec.Ports[1].Port)))
	if err == nil {
		err = c.ask()
	}
	if err != nil {
		b.T.Fatal(err)
	}
	b.T.Cleanup(func() { c.Close() })
	return c
}

func (b *twoProxies) dial(from *sandbox.Pod, to string) (*talking, error) {
	ctx, cancel := context.WithTimeout(b.T.Context(), Timeout)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", "", to)
	if err != nil {
		return nil, err
	}
	return &talking{conn, bufio.NewReader(conn)}, nil
}

// talkUDP begins a UDP flow to a Service.
func (b *twoProxies) talkUDP(service string) *talking {
	b.T.Helper()
	ctx, cancel := context.WithTimeout(b.T.Context(), Timeout)
	defer cancel()
	conn, err := b.client.Dial(ctx, "udp", "", net.JoinHostPort(b.vip(service, 4), fmt.Sprint(b.services[service].Spec.Ports[2].Port)))
	if err != nil {
		b.T.Fatal(err)
	}
	b.T.Cleanup(func() { conn.Close() })
	c := &talking{conn, bufio.NewReader(conn)}
	if err := c.ask(); err != nil {
		b.T.Fatal(err)
	}
	return c
}

// checkFlows fails the test unless the kernel still has the conntrack entries of UDP flows, which no proxy deletes while the
// endpoint exists, whether the Service is its own or has moved.
func (b *twoProxies) checkFlows(flows map[string]*talking, when string) {
	b.T.Helper()
	table, err := ctnetlink.Open()
	if err != nil {
		b.T.Fatal(err)
	}
	defer table.Close()
	for service, flow := range flows {
		source, found := flow.LocalAddr().(*net.UDPAddr).AddrPort(), false
		err := table.List(conntrack.Filter{Family: nft.IPv4, Protocol: nft.UDP}, func(f conntrack.Flow) {
			found = found || f.Original.Source == source && f.Translated()
		})
		if err != nil || !found {
			b.T.Errorf("%s: the conntrack entry of the UDP flow from %s to Service %s is gone (%v)", when, source, service, err)
		}
		if err := flow.ask(); err != nil {
			b.T.Errorf("%s: UDP flow to Service %s: %v", when, service, err)
		}
	}
}

// ask sends a line and reads it back.
func (c *talking) ask() error {
	if err := c.SetDeadline(time.Now().Add(Timeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	answer, err := c.answers.ReadString('\n')
	if err == nil && answer != "hello\n" {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

// echo makes a connection and asks once.
func (b *twoProxies) echo(from *sandbox.Pod, to string) error {
	c, err := b.dial(from, to)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.ask()
}

// checkEvents fails the test unless the Events of nfproxy name the instance.
func (b *twoProxies) checkEvents() {
	b.T.Helper()
	EventuallyTrue(b.T, "nfproxy/blue has reported its start", func() (bool, string) {
		list, err := b.CoreV1().Events("default").List(b.T.Context(), metav1.ListOptions{})
		if err != nil {
			b.T.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Source.Component == "nfproxy/blue" && e.Reason == "Starting" {
				return true, ""
			}
		}
		return false, fmt.Sprint(list.Items)
	})
}

// checkCleanup fails the test unless cleanup removes the tables of its own instance only, and kube-proxy continues without them.
func (b *twoProxies) checkCleanup() {
	b.T.Helper()
	if out, err := Command(b.T, "cleanup").CombinedOutput(); err != nil || string(out) != "nothing to remove\n" {
		b.T.Errorf("cleanup without a name: %v: %s", err, out)
	}
	if out, err := Command(b.T, "cleanup", "--service-proxy-name", "blue").CombinedOutput(); err == nil {
		b.T.Errorf("cleanup while nfproxy runs: %s", out)
	}
	b.nfproxy.Stop()
	if out, err := Command(b.T, "cleanup", "--service-proxy-name", "blue").CombinedOutput(); err != nil ||
		string(out) != "removed table ip nfproxy/blue\nremoved table ip6 nfproxy/blue\n" {
		b.T.Errorf("cleanup: %v: %s", err, out)
	}
	if out, err := CombinedOutput("nft", "list", "tables"); err != nil || strings.Contains(out, "nfproxy") {
		b.T.Errorf("tables after cleanup: %v\n%s", err, out)
	}
	for _, family := range []int{4, 6} {
		if got, err := ReadGreeting(b.T.Context(), b.client.Namespace, b.frontend("theirs", family)); err != nil || got != "theirs" {
			b.T.Errorf("after cleanup: %s: %q, %v", b.frontend("theirs", family), got, err)
		}
	}
}
