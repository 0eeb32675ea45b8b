package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/controlplane"
	"nfproxy/integration/sandbox"
)

// testCluster is a control plane on a node, the tests' own namespace, with the node's pods. Nobody plays kubelet but the
// test.
type testCluster struct {
	*controlplane.ControlPlane
	*kubernetes.Clientset
	t       testing.TB
	network *sandbox.Network
	pods    map[string]*sandbox.Pod
}

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

const clusterNode = "node-a"

var clusterNodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}

// newTestCluster returns a cluster whose node is registered, with the rights in deploy/rbac.yaml.
func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	node, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(node, clusterNodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := nfproxy(t, "cleanup").CombinedOutput(); err != nil { // by then nobody runs any more
			t.Errorf("%v: %s", err, out)
		}
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &testCluster{ControlPlane: controlplane.Start(t, node, clusterNodeAddrs...), t: t, network: network, pods: map[string]*sandbox.Pod{}}
	if c.Clientset, err = kubernetes.NewForConfig(c.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	c.applyRBAC()
	c.addNode(clusterNode, clusterNodeAddrs...)
	return c
}

// applyRBAC creates what is in deploy/rbac.yaml.
func (c *testCluster) applyRBAC() {
	c.t.Helper()
	data, err := os.ReadFile("deploy/rbac.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var account corev1.ServiceAccount
	var role rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	for _, into := range []any{&account, &role, &binding} {
		if err := documents.Decode(into); err != nil {
			c.t.Fatal(err)
		}
	}
	ctx, options := c.t.Context(), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	_, err = c.CoreV1().ServiceAccounts(account.Namespace).Create(ctx, &account, options)
	if err == nil {
		_, err = c.RbacV1().ClusterRoles().Create(ctx, &role, options)
	}
	if err == nil {
		_, err = c.RbacV1().ClusterRoleBindings().Create(ctx, &binding, options)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *testCluster) addNode(name string, addrs ...netip.Addr) {
	c.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	for _, addr := range addrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	if _, err := c.CoreV1().Nodes().Create(c.t.Context(), node, metav1.CreateOptions{}); err != nil { // with its status
		c.t.Fatal(err)
	}
}

// addPod gives a Pod a network, as a kubelet would, and, if it has labels, an object that says it is ready.
func (c *testCluster) addPod(namespace, name string, labels map[string]string, addrs ...string) *sandbox.Pod {
	c.t.Helper()
	var all []netip.Addr
	for _, a := range addrs {
		all = append(all, netip.MustParseAddr(a))
	}
	pod, err := c.network.AddPod(name, all...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.pods[name] = pod
	if labels == nil {
		return pod
	}
	object, err := c.CoreV1().Pods(namespace).Create(c.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: clusterNode, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	object.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addrs[0],
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	for _, a := range addrs {
		object.Status.PodIPs = append(object.Status.PodIPs, corev1.PodIP{IP: a})
	}
	if _, err := c.CoreV1().Pods(namespace).UpdateStatus(c.t.Context(), object, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	return pod
}

// greet lets a pod greet whoever connects.
func greet(t testing.TB, pod *sandbox.Pod, at, greeting string) {
	t.Helper()
	accept(t, pod, at, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.WriteString(conn, greeting) // who has gone needs none
	})
}

// accept lets a pod take TCP connections, which end when each returns.
func accept(t testing.TB, pod *sandbox.Pod, at string, each func(net.Conn)) {
	t.Helper()
	listener, err := pod.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				each(conn)
			}()
		}
	}()
}

// greeting connects and returns what it is told.
func greeting(ctx context.Context, from *sandbox.Namespace, to string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp", "", to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(conn)
	return string(text), err
}

// process is nfproxy as a process, with the rights it is shipped with.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  *lines
	done chan error
}

// startAgent starts nfproxy run on the cluster's node.
func (c *testCluster) startAgent(flags ...string) *process {
	c.t.Helper()
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	args := append([]string{"run", "--kubeconfig", kubeconfig, "--hostname-override", clusterNode,
		"--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48", "--conntrack-max-per-core", "0", "--oom-score-adj", "0"}, flags...)
	return startAgent(c.t, args...)
}

func startAgent(t testing.TB, args ...string) *process {
	t.Helper()
	cmd := nfproxy(t, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return startProcess(t, cmd)
}

// startProcess starts a process that ends with the test at the latest.
func startProcess(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: &lines{}, done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), outsideEnv+"="+os.Getenv(outsideEnv))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal is sent when the thread ends that started the process
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.done <- p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the log of %s:\n%s", filepath.Base(p.cmd.Args[0]), p.log)
		}
	})
	return p
}

// end ends the process by a signal and waits until it has. Ending it twice is no error.
func (p *process) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // an error says that it has ended
	err := <-p.done
	p.done <- err
}

// stop ends the process as a kubelet does, and fails the test if that is not to its liking.
func (p *process) stop() {
	p.t.Helper()
	p.end(syscall.SIGTERM)
	if err := <-p.done; err != nil {
		p.t.Errorf("nfproxy ended with %v", err)
	}
	p.done <- nil
}

// says waits until the log has a text.
func (p *process) says(text string) {
	p.t.Helper()
	eventuallyTrue(p.t, fmt.Sprintf("the log says %q", text), func() (bool, string) {
		return strings.Contains(p.log.String(), text), p.log.String()
	})
}

// eventuallyTrue waits for what must happen.
func eventuallyTrue(t testing.TB, what string, holds func() (ok bool, otherwise string)) {
	t.Helper()
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(20 * time.Millisecond) {
		ok, otherwise := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s; %s", what, otherwise)
		}
	}
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// callers connect to a Service from a pod, all the time, and count.
type callers struct {
	cancel   context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	total    int
	answers  map[string]int
	failures []string
}

// call starts n callers that are greeted.
func call(t testing.TB, n int, from *sandbox.Namespace, to string) *callers {
	return callBy(t, n, func(ctx context.Context) (string, error) { return greeting(ctx, from, to) })
}

// callBy starts n callers. Each makes at most a hundred connections a second.
func callBy(t testing.TB, n int, connect func(context.Context) (answer string, err error)) *callers {
	ctx, cancel := context.WithCancel(context.Background())
	c := &callers{cancel: cancel, answers: make(map[string]int)}
	t.Cleanup(func() { c.stop() })
	for range n {
		c.running.Go(func() {
			for ctx.Err() == nil {
				answer, err := connect(ctx)
				if ctx.Err() == nil {
					c.note(answer, err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return c
}

func (c *callers) note(answer string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total++
	if err != nil || answer == "" {
		c.failures = append(c.failures, fmt.Sprintf("%s: %v", time.Now().Format(time.StampMilli), err))
		return
	}
	c.answers[answer]++
}

// count returns how many connections there were, and forgets who answered so far.
func (c *callers) count() (total, failed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total, len(c.failures)
}

// more waits for as many connections more.
func (c *callers) more(t testing.TB, n int) {
	t.Helper()
	before, _ := c.count()
	eventuallyTrue(t, fmt.Sprintf("%d more connections", n), func() (bool, string) {
		now, failed := c.count()
		return now >= before+n, fmt.Sprintf("%d more, %d failed in all", now-before, failed)
	})
}

// stop ends the callers and returns what failed.
func (c *callers) stop() []string {
	c.cancel()
	c.running.Wait()
	return c.failures
}

// command runs a program in the tests' namespace.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}
