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

// The CIDRs of cluster IPs, the first one as kubeadm sets it: it has room for a
// million Services. Its first address is the cluster IP of Service
// default/kubernetes.
const (
	ServiceCIDR4 = "10.96.0.0/12"
	ServiceCIDR6 = "fd00:10:96::/112"
)

// Port is the TCP port of the API server.
const Port = 6443

// ControlPlane is an API server with etcd and, once they are started, the
// controllers and CoreDNS. Its methods fail the test on errors and must be
// called from the test's own goroutine.
type ControlPlane struct {
	t         testing.TB
	ns        *sandbox.Namespace
	dir       string       // the files of all programs
	addrs     []netip.Addr // the arguments of Start
	authority *authority
	admin     *rest.Config
	apiserver *process
	kubelets  bool     // there are kubelets: StartForKubelets
	flags     []string // additional ones of the API server
}

// Start starts etcd and kube-apiserver in ns and returns when the API server is
// ready. A namespace can hold one control plane.
//
// The API server listens on the loopback addresses and, if there are addrs, on
// every other address of ns. Its certificate is valid for addrs, which pods may
// use, and for the addresses and names of Service default/kubernetes, whose
// endpoint is addrs[0]. Without addrs the Service has no endpoint.
//
// Pods need no service account, because the controller that creates them does
// not run; StartForKubelets differs.
//
// Start takes seconds; with go test -short it skips the test.
func Start(t testing.TB, ns *sandbox.Namespace, addrs ...netip.Addr) *ControlPlane {
	t.Helper()
	return start(t, &ControlPlane{t: t, ns: ns, addrs: addrs})
}

// StartForKubelets is Start for a cluster of real nodes, with all controllers and the scheduler. As in such a cluster, every Pod has a
// service account, and kubelets, users system:node:NAME of the group system:nodes, have the rights of the Node authorizer alone. flags
// are additional ones of the API server.
func StartForKubelets(t testing.TB, ns *sandbox.Namespace, addrs []netip.Addr, flags ...string) *ControlPlane {
	t.Helper()
	c := start(t, &ControlPlane{t: t, ns: ns, addrs: addrs, kubelets: true, flags: flags})
	c.startControllers("--service-account-private-key-file="+c.path(accountKeyFile), "--root-ca-file="+c.path(authorityFile),
		"--use-service-account-credentials", "--kube-api-qps=100", "--kube-api-burst=200")
	c.startScheduler()
	return c
}

// start starts etcd and the API server of c.
func start(t testing.TB, c *ControlPlane) *ControlPlane {
	t.Helper()
	if testing.Short() {
		t.Skip("the test needs a control plane, which takes seconds to start")
	}
	c.dir = t.TempDir()
	var err error
	if c.authority, err = newAuthority(); err != nil {
		t.Fatal(err)
	}
	c.admin = c.Config("admin", "system:masters")
	c.writeServerFiles()
	if c.kubelets {
		c.writeKubeletClient()
	}
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

// path returns the path of a file of the control plane.
func (c *ControlPlane) path(name string) string { return filepath.Join(c.dir, name) }

// URL returns the URL of the API server at an address.
func URL(addr netip.Addr) string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(addr, Port))
}

// loopback returns the address at which the programs in the control plane's
// namespace, and the test, reach each other.
func loopback() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }
