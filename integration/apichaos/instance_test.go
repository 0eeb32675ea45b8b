package apichaos

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"nfproxy/integration/cluster"
	"nfproxy/logtest"
	"nfproxy/sandbox"
)

// instance is an nfproxy in a network namespace of its own, and a Service whose only endpoint the test changes.
type instance struct {
	*cluster.Cluster
	t       testing.TB // of the fault
	name    string
	number  int
	ns      *sandbox.Namespace
	log     *logtest.Buffer
	process *exec.Cmd
	done    chan struct{} // closed when the process has ended
	slice   *discoveryv1.EndpointSlice
	changes int
}

// newInstance creates the namespace and the Service. Each instance has another number, below 255.
func newInstance(t testing.TB, c *cluster.Cluster, name string, number int) *instance {
	t.Helper()
	i := &instance{Cluster: c, t: t, name: name, number: number, log: &logtest.Buffer{}}
	pod, err := c.Network.AddPod(fmt.Sprintf("i%d", number), netip.AddrFrom4([4]byte{10, 244, 0, byte(number)}))
	i.must(err)
	i.ns = pod.Namespace
	_, err = c.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	i.must(err)
	port := int32(8080)
	i.slice, err = c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port}},
	}, metav1.CreateOptions{})
	i.must(err)
	i.change()
	return i
}

func (i *instance) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

// address returns the endpoint after a number of changes.
func (i *instance) address(changes int) string {
	return fmt.Sprintf("10.245.%d.%d", i.number, 1+changes%250)
}

// change replaces the endpoint of the Service.
func (i *instance) change() {
	i.t.Helper()
	i.changes++
	i.slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{i.address(i.changes)}}}
	var err error
	i.slice, err = i.DiscoveryV1().EndpointSlices("default").Update(i.t.Context(), i.slice, metav1.UpdateOptions{})
	i.must(err)
}

// account returns the client configuration of nfproxy's service account for an API server at an address.
func account(c *cluster.Cluster, addr string) *rest.Config {
	config := c.ServiceAccountConfig("kube-system", "nfproxy")
	config.Host = "https://" + addr
	return config
}

// start starts nfproxy with a kubeconfig file.
func (i *instance) start(kubeconfig string, env ...string) {
	i.t.Helper()
	cmd := i.command("run", "--kubeconfig", kubeconfig, "--conntrack-max-per-core", "0", "--oom-score-adj", "0", "-v", "4")
	cmd.Stdout, cmd.Stderr = i.log, i.log
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done, started := make(chan struct{}), make(chan error)
	go i.ns.Do(func() error {
		runtime.LockOSThread() // the kernel sends the death signal when the thread that started the process ends
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(done)
		}
		return nil
	})
	i.must(<-started)
	i.process, i.done = cmd, done
	i.t.Cleanup(i.stop)
}

// stop kills nfproxy.
func (i *instance) stop() {
	_ = i.process.Process.Kill() // an error means that the process has ended
	<-i.done
}

// command returns a command that runs nfproxy with these arguments and the settings of the instance.
func (i *instance) command(args ...string) *exec.Cmd {
	cmd := cluster.Command(i.t, append(args, "--hostname-override", cluster.NodeName, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48")...)
	cmd.Env = append(os.Environ(), cluster.OutsideEnv+"="+os.Getenv(cluster.OutsideEnv))
	return cmd
}

// output runs a command in the namespace.
func (i *instance) output(cmd *exec.Cmd) (string, error) {
	var out []byte
	err := i.ns.Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// nft runs nft in the namespace and fails the test if that fails.
func (i *instance) nft(args ...string) string {
	i.t.Helper()
	out, err := i.output(exec.Command("nft", args...))
	if err != nil {
		i.t.Fatalf("nft %s: %v\n%s", args, err, out)
	}
	return out
}

// serves reports whether the kernel has the endpoint of the last change. It fails the test if the kernel has none, or after
// the arrival of a change still the previous one.
func (i *instance) serves() bool {
	i.t.Helper()
	out := i.nft("list", "table", "ip", "nfproxy")
	now, before := strings.Contains(out, i.address(i.changes)+" "), strings.Contains(out, i.address(i.changes-1)+" ")
	if now == before {
		i.t.Fatalf("endpoint %s: %v, endpoint %s: %v\n%s", i.address(i.changes), now, i.address(i.changes-1), before, out)
	}
	return now
}

// await waits until the kernel has the endpoint of the last change.
func (i *instance) await() {
	i.t.Helper()
	for begin := time.Now(); !i.serves(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > patience {
			i.t.Fatalf("the change does not arrive within %v; end of the log:\n%s", patience, i.logEnd())
		}
	}
}

// awaitFirst waits until nfproxy has programmed its tables.
func (i *instance) awaitFirst() {
	i.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		out, err := i.output(exec.Command("nft", "list", "table", "ip", "nfproxy"))
		if err == nil && strings.Contains(out, i.address(i.changes)+" ") {
			return
		}
		if time.Since(begin) > patience {
			i.t.Fatalf("nfproxy does not start within %v; end of the log:\n%s", patience, i.logEnd())
		}
	}
}

// check fails the test unless the tables are those that nfproxy would program now with an undisturbed connection.
func (i *instance) check(undisturbed string) {
	i.t.Helper()
	for begin := time.Now(); ; time.Sleep(200 * time.Millisecond) { // Services of other instances change meanwhile
		out, err := i.output(i.command("dump", "--diff", "--kubeconfig", undisturbed))
		if err == nil {
			return
		}
		if time.Since(begin) > patience {
			i.t.Fatalf("the tables differ from those of an undisturbed nfproxy: %v\n%s\nend of the log:\n%s", err, out, i.logEnd())
		}
	}
}

func (i *instance) logEnd() string {
	text := i.log.String()
	return text[max(0, len(text)-8000):]
}
