//go:build linux

package controlplane

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"

	"nfproxy/sandbox"
)

// What cluster IPs are given from, and the first of each: the Service
// default/kubernetes has the first one.
const (
	ServiceCIDR4 = "10.96.0.0/16"
	ServiceCIDR6 = "fd00:10:96::/112"
)

// Port is where the API server listens.
const Port = 6443

// ControlPlane is an API server with its store, and with what was started of
// the rest. Its methods fail the test if something goes wrong, and are called
// from the test's own goroutine.
type ControlPlane struct {
	t         testing.TB
	ns        *sandbox.Namespace
	dir       string // files of everything that runs
	addrs     []netip.Addr
	authority *authority
	admin     *rest.Config
	apiserver *process
}

// Start runs etcd and kube-apiserver in ns, at most once in a namespace, and
// returns when the API server is ready.
//
// It listens on the loopback addresses and, if there are addrs, on every other
// address of ns. Its certificate is good for addrs, which pods may use, and for
// the addresses and names of the Service default/kubernetes; addrs[0] is that
// Service's endpoint. Without addrs it has none.
//
// Pods may be created without service accounts, whose controller does not run.
//
// It takes seconds, so that with go test -short the test is skipped.
func Start(t testing.TB, ns *sandbox.Namespace, addrs ...netip.Addr) *ControlPlane {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs a control plane")
	}
	c := &ControlPlane{t: t, ns: ns, dir: t.TempDir(), addrs: addrs}
	var err error
	if c.authority, err = newAuthority(); err != nil {
		t.Fatal(err)
	}
	c.admin = c.Config("admin", "system:masters")
	c.writeServerFiles()
	c.startEtcd()
	c.StartAPIServer()
	return c
}

// write writes a file of the control plane and returns its path.
func (c *ControlPlane) write(name string, content []byte) string {
	c.t.Helper()
	path := c.path(name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		c.t.Fatalf("write %s: %v", name, err)
	}
	return path
}

func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir, name) }

// URL returns the API server's address for those who reach it at addr.
func URL(addr netip.Addr) string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(addr, Port))
}

// loopback is where the processes in the control plane's namespace, and the
// test, find everything.
func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
