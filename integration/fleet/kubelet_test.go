package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// kubeletPort is the port of the kubelets.
const kubeletPort = 10250

// kubelet is the exec endpoint of a kubelet. Commands run in the network namespace of its node.
type kubelet struct {
	ns *sandbox.Namespace

	mu      sync.Mutex
	program string        // is executed in place of the first word of a command
	hangs   bool          // commands neither end nor print anything
	hung    chan struct{} // gets a value when one hangs
}

// serveKubelet serves the endpoint at an address of a node until the test ends.
func serveKubelet(t *testing.T, ns *sandbox.Namespace, addr netip.Addr, program string) *kubelet {
	t.Helper()
	_, certificate, err := controlplane.NewServer(time.Time{}, addr)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := ns.Listen("tcp", netip.AddrPortFrom(addr, kubeletPort).String())
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{ns: ns, program: program, hung: make(chan struct{}, 100)}
	server := &http.Server{Handler: k}
	var running sync.WaitGroup
	running.Go(func() {
		_ = server.Serve(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	})
	t.Cleanup(func() {
		_ = server.Close()
		running.Wait()
	})
	return k
}

// set changes what commands do.
func (k *kubelet) set(program string, hangs bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.program, k.hangs = program, hangs
}

// ServeHTTP serves /exec/NAMESPACE/POD/CONTAINER.
func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	options, err := remotecommand.NewOptions(r)
	if len(path) != 4 || path[0] != "exec" || err != nil {
		http.Error(w, fmt.Sprintf("%s: %v", r.URL, err), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, k, path[2], "", path[3], r.URL.Query()["command"], options, time.Minute, 10*time.Second,
		[]string{remotecommand.StreamProtocolV4Name})
}

// ExecInContainer implements remotecommand.Executor.
func (k *kubelet) ExecInContainer(ctx context.Context, _, _, _ string, words []string, _ io.Reader, stdout, stderr io.WriteCloser, _ bool,
	_ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	k.mu.Lock()
	program, hangs := k.program, k.hangs
	k.mu.Unlock()
	if hangs {
		k.hung <- struct{}{}
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
		return ctx.Err()
	}
	if words[0] != "/nfproxy" {
		return fmt.Errorf("the image has no file %s", words[0])
	}
	cmd := exec.CommandContext(ctx, program, words[1:]...)
	cmd.Env = append(os.Environ(), cluster.OutsideEnv+"="+os.Getenv(cluster.OutsideEnv))
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := k.ns.Do(cmd.Run) // on a thread of its own
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return &utilexec.ExitErrorWrapper{ExitError: exit}
	}
	return err
}
