package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"nfproxy/sandbox"
)

// BenchmarkCluster measures nfproxy, as a process, on an API server with Services of three endpoints: the time from the
// start of the process to a connection through the last Service, on an empty kernel and over existing rules; the time from
// the change of an endpoint in the API to a connection that reaches it; processor time and memory. It also measures a plain
// list of the same objects, for comparison.
func BenchmarkCluster(b *testing.B) {
	b.Setenv("PATH", BuildAgent(b)+":"+os.Getenv("PATH"))
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l := newLoadedCluster(b, n)
			b.Run("list", l.benchmarkList)
			b.Run("informers", l.benchmarkInformers)
			start := func() *Process { return l.startAgent() }
			b.Run("start", func(b *testing.B) { l.benchmarkStart(b, start, "cleanup") })
			b.Run("restart", l.benchmarkRestart)
			b.Run("change", func(b *testing.B) { l.benchmarkChange(b, start) })
		})
	}
}

// loadedCluster has n Services with an EndpointSlice each. Only the endpoints of the last Service are real pods.
type loadedCluster struct {
	*Cluster
	client *sandbox.Pod
	last   *Backends
}

func newLoadedCluster(b *testing.B, n int) *loadedCluster {
	b.Helper()
	c := New(b)
	l := &loadedCluster{Cluster: c, client: c.AddPod("default", "client", nil, "10.244.1.99")}
	var failed atomic.Pointer[error]
	var creating sync.WaitGroup
	next := make(chan int)
	for range 8 {
		creating.Go(func() {
			for i := range next {
				if err := l.create(b.Context(), i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	for i := range n - 1 {
		next <- i
	}
	close(next)
	creating.Wait()
	if err := failed.Load(); err != nil {
		b.Fatal(*err)
	}
	l.last = c.AddBackends("zz-last", 2)
	l.last.Serve(l.last.Addrs[0])
	return l
}

// create creates a Service with three endpoints at which no pod exists.
func (l *loadedCluster) create(ctx context.Context, i int) error {
	name := fmt.Sprintf("service-%d", i)
	_, err := l.CoreV1().Services("default").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	port, portName, elsewhere := int32(8080), "http", "node-b"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &portName, Port: &port}},
	}
	for e := range 3 {
		addr := netip.AddrFrom4([4]byte{10, byte(128 + i>>14), byte(i >> 6), byte(i<<2 + e)})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}, NodeName: &elsewhere})
	}
	_, err = l.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
	return err
}

// awaitConnection waits until the pod with the address by answers a connection through the last Service.
func (l *loadedCluster) awaitConnection(b *testing.B, by string) {
	b.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; { // kube-proxy may take minutes
		ctx, cancel := context.WithTimeout(b.Context(), 50*time.Millisecond)
		got, err := ReadGreeting(ctx, l.client.Namespace, l.last.Frontend)
		if cancel(); err == nil && got == by {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s does not answer at %s: %q, %v", by, l.last.Frontend, got, err)
		}
	}
}

// protobufClient returns a client that requests objects as protobuf.
func (l *loadedCluster) protobufClient(b *testing.B) *kubernetes.Clientset {
	b.Helper()
	config := l.AdminConfig()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	return client
}

// benchmarkList lists the same objects with client-go, as protobuf, and keeps none of them.
func (l *loadedCluster) benchmarkList(b *testing.B) {
	client := l.protobufClient(b)
	for b.Loop() {
		options := metav1.ListOptions{ResourceVersion: "0"}
		if _, err := client.CoreV1().Services("").List(b.Context(), options); err != nil {
			b.Fatal(err)
		}
		if _, err := client.DiscoveryV1().EndpointSlices("").List(b.Context(), options); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkInformers fills client-go informers with the same objects, as most programs do.
func (l *loadedCluster) benchmarkInformers(b *testing.B) {
	client := l.protobufClient(b)
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		factory := informers.NewSharedInformerFactory(client, 0)
		services, slices := factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()
		factory.Start(ctx.Done())
		if !cache.WaitForCacheSync(ctx.Done(), services.HasSynced, slices.HasSynced) {
			b.Fatal("the informers do not sync")
		}
		cancel()
		factory.Shutdown()
	}
}

// benchmarkStart measures the start of a proxy on an empty kernel, until a connection through the last Service is answered.
// cleanup are the arguments with which nfproxy removes the proxy's rules.
func (l *loadedCluster) benchmarkStart(b *testing.B, start func() *Process, cleanup ...string) {
	for b.Loop() {
		proxy := start()
		l.awaitConnection(b, l.last.Addrs[0])
		b.StopTimer()
		b.ReportMetric(processorTime(b, proxy), "ms-cpu")
		time.Sleep(time.Second) // until the proxy is idle
		b.ReportMetric(memory(b, proxy, "VmHWM"), "MB-peak")
		b.ReportMetric(memory(b, proxy, "VmRSS"), "MB-resident")
		b.ReportMetric(memory(b, proxy, "RssAnon"), "MB-anonymous") // without the pages of the binary
		proxy.End(syscall.SIGTERM)
		if out, err := Command(b, cleanup...).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		b.StartTimer()
	}
}

// benchmarkRestart measures a start over existing rules, until a change that was made before the start takes effect.
func (l *loadedCluster) benchmarkRestart(b *testing.B) {
	l.startAgent().endAfter(func() { l.awaitConnection(b, l.last.Addrs[0]) })
	i := 0
	for b.Loop() {
		i++
		l.last.Serve(l.last.Addrs[i%2])
		agent := l.startAgent()
		l.awaitConnection(b, l.last.Addrs[i%2])
		b.StopTimer()
		agent.End(syscall.SIGTERM)
		b.StartTimer()
	}
}

// benchmarkChange replaces the endpoint of the last Service and measures the time until a connection reaches the new one.
func (l *loadedCluster) benchmarkChange(b *testing.B, start func() *Process) {
	proxy := start()
	for _, addr := range l.last.Addrs { // rules of an earlier process may answer; only a change shows that this one runs
		l.last.Serve(addr)
		l.awaitConnection(b, addr)
	}
	i := 1
	for b.Loop() {
		i++
		l.last.Serve(l.last.Addrs[i%2])
		l.awaitConnection(b, l.last.Addrs[i%2])
	}
	proxy.End(syscall.SIGTERM)
}

// endAfter ends the process when f returns.
func (p *Process) endAfter(f func()) {
	f()
	p.End(syscall.SIGTERM)
}

// processorTime returns the user and system time that a process has used so far, in milliseconds.
func processorTime(b *testing.B, p *Process) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // proc_pid_stat(5): the name may contain spaces; field 3 follows it
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	const tick = 10 // ms, USER_HZ
	return float64(user+system) * tick
}
