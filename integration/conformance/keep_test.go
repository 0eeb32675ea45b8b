//go:build linux

package conformance

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestKeep starts a cluster with nfproxy and keeps it until the process gets SIGTERM or SIGINT. `make conformance-up` runs it in the
// background. Then the API server answers at a loopback address of the machine, and the files kubeconfig and nodes say how to get there,
// and into the nodes.
func TestKeep(t *testing.T) {
	needsCluster(t)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	c := newServedCluster(t, shape{name: "kept", nodes: 3})
	listener, err := net.Listen("unix", thisInstance().apiSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go forward(listener, func() (net.Conn, error) { return c.dialControl(t.Context(), "tcp", "127.0.0.1:6443") })

	admin := c.AdminConfig()
	admin.Host = "https://127.0.0.1:" + os.Getenv(apiPortEnv)
	text, err := os.ReadFile(c.Kubeconfig(admin))
	if err != nil {
		t.Fatal(err)
	}
	var nodes strings.Builder
	for i, n := range c.nodes {
		fmt.Fprintf(&nodes, "%s: nsenter --target %d --all\n", nodeName(i+1), n.first)
	}
	if err := os.MkdirAll(c.outDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"nodes": nodes.String(), "kubeconfig": string(text)} {
		path := c.outDir() + "/" + name
		writeFile(t, path+".new", []byte(content))
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	<-end
}
