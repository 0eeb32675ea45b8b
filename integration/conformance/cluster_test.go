//go:build linux

package conformance

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/controlplane"
)

// dnsAddr is the cluster IP of the cluster's DNS.
const dnsAddr = "10.96.0.10"

// pauseImage is the name of the image of a Pod's sandbox.
const pauseImage = registry + "/pause:1"

// registry is where the images seem to come from. Nothing is there.
const registry = "conformance.test"

// shape says what a cluster is like.
type shape struct {
	name  string
	nodes int
	ipv4  bool // Pods, nodes and Services are IPv4 alone

	images []string // that the nodes have besides nfproxy's; nil: all
}

// testCluster is a running cluster.
type testCluster struct {
	shape
	t testing.TB
	*controlplane.ControlPlane
	*kubernetes.Clientset
	net        *network
	nodes      []*host
	dir        string
	authority  string // file of the certificate that issued all others
	kubeconfig string // of an administrator in the control plane's namespace
	archives   []string
}

// newCluster starts a cluster without a service proxy and without DNS. It ends with the test.
func newCluster(t testing.TB, s shape) *testCluster {
	t.Helper()
	c := &testCluster{shape: s, t: t, dir: t.TempDir(), net: newNetwork(t, s.nodes)}
	var flags []string
	if s.ipv4 {
		flags = append(flags, "--service-cluster-ip-range="+controlplane.ServiceCIDR4)
	}
	c.ControlPlane = controlplane.StartForKubelets(t, c.net.control, []netip.Addr{control.v4, control.v6}, flags...)
	admin := c.AdminConfig()
	c.kubeconfig = c.Kubeconfig(admin)
	c.authority = filepath.Join(c.dir, "authority.crt")
	writeFile(t, c.authority, admin.CAData)
	var err error
	if c.Clientset, err = kubernetes.NewForConfig(admin); err != nil {
		t.Fatal(err)
	}
	if s.images == nil {
		s.images = []string{"*"}
	}
	for _, pattern := range s.images {
		found, err := filepath.Glob(filepath.Join(programPath(t, "images"), pattern+".tar"))
		if err != nil || len(found) == 0 {
			t.Fatalf("no image %s: run `make conformance-tools` (%v)", pattern, err)
		}
		c.archives = append(c.archives, found...)
	}
	c.archives = append(c.archives, nfproxyArchive(t))
	for i := 1; i <= s.nodes; i++ {
		c.registerNode(i)
	}
	c.startNodes()
	c.await(2*time.Minute, "all nodes are ready", c.nodesReady)
	return c
}

// registerNode creates a Node, because the ranges of Pods are ours.
func (c *testCluster) registerNode(i int) {
	c.t.Helper()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			corev1.LabelTopologyZone: "zone-" + string(rune('a'+(i-1)%3)), corev1.LabelTopologyRegion: "region"}},
		Spec: corev1.NodeSpec{PodCIDR: podCIDR4(i), PodCIDRs: []string{podCIDR4(i)}},
	}
	if !c.ipv4 {
		node.Spec.PodCIDRs = append(node.Spec.PodCIDRs, podCIDR6(i))
	}
	if _, err := c.CoreV1().Nodes().Create(c.t.Context(), node, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// startNodes starts the nodes one after the other: importing images keeps a processor busy.
func (c *testCluster) startNodes() {
	c.t.Helper()
	for i, ns := range c.net.nodes {
		c.nodes = append(c.nodes, c.startNode(i+1, ns))
	}
}

// nodesReady returns an error unless the kubelets report that all nodes are ready.
func (c *testCluster) nodesReady(ctx context.Context) error {
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("%s is not ready", n.Name)
		}
	}
	return nil
}

// nfproxyArchive returns the path of the archive of nfproxy's image.
func nfproxyArchive(t testing.TB) string {
	t.Helper()
	path, err := filepath.Abs("dist/conformance/nfproxy.tar")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("the image of nfproxy is missing: run this test by make (%v)", err)
	}
	return path
}

// nodeKubeconfig writes a kubeconfig for a process on a node and returns its path.
func (c *testCluster) nodeKubeconfig(user string, groups ...string) string {
	c.t.Helper()
	config := c.Config(user, groups...)
	config.Host = controlplane.URL(control.v4)
	return c.Kubeconfig(config)
}

// installNfproxy applies deploy/nfproxy.yaml with the two lines set that the file asks for, and waits until it is in sync on all nodes.
func (c *testCluster) installNfproxy() {
	c.t.Helper()
	c.apply(c.nfproxyManifest())
	c.awaitRollout("daemonset/nfproxy")
}

// nfproxyManifest returns deploy/nfproxy.yaml for this cluster.
func (c *testCluster) nfproxyManifest() string {
	c.t.Helper()
	text, err := os.ReadFile("deploy/nfproxy.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	ranges := clusterCIDR4
	if !c.ipv4 {
		ranges += "," + clusterCIDR6
	}
	return replaceOnce(c.t, "deploy/nfproxy.yaml", string(text), map[string]string{
		`clusterCIDR: ""`:                     fmt.Sprintf("clusterCIDR: %q", ranges),
		`server: https://kube-apiserver:6443`: "server: " + controlplane.URL(control.v4),
	})
}

// replaceOnce replaces parts of a file's text, each of which must be there once.
func replaceOnce(t testing.TB, file, text string, parts map[string]string) string {
	t.Helper()
	for from, to := range parts {
		if n := strings.Count(text, from); n != 1 {
			t.Fatalf("%s has %d times %q, want it once", file, n, from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	return text
}

// installDNS starts the cluster's DNS, which needs a service proxy to reach the API server.
func (c *testCluster) installDNS() {
	c.t.Helper()
	text, err := os.ReadFile("integration/conformance/testdata/coredns.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(string(text))
	c.awaitRollout("deployment/coredns")
}

// apply applies a manifest.
func (c *testCluster) apply(manifest string) {
	c.t.Helper()
	if out, err := c.kubectl(manifest, "apply", "--server-side", "--filename=-"); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
}

// awaitRollout waits until all Pods of an object in kube-system are ready.
func (c *testCluster) awaitRollout(object string) {
	c.t.Helper()
	if out, err := c.kubectl("", "--namespace=kube-system", "rollout", "status", object, "--timeout=3m"); err != nil {
		state, _ := c.kubectl("", "--namespace=kube-system", "describe", "pods")
		c.t.Fatalf("%v\n%s\n%s", err, out, state)
	}
}

// kubectl runs kubectl as an administrator and returns what it prints.
func (c *testCluster) kubectl(input string, args ...string) (string, error) {
	c.t.Helper()
	return c.runInControl("kubectl", nil, input, append([]string{"--kubeconfig=" + c.kubeconfig}, args...)...)
}

// runInControl runs a program in the control plane's namespace, with a directory of its own as HOME and the further variables of env,
// and returns what it prints.
func (c *testCluster) runInControl(program string, env []string, input string, args ...string) (string, error) {
	c.t.Helper()
	path := programPath(c.t, program)
	var out bytes.Buffer
	err := c.net.control.Do(func() error {
		cmd := exec.CommandContext(c.t.Context(), path, args...)
		cmd.Env = append([]string{"HOME=" + c.dir}, env...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
		return cmd.Run()
	})
	return out.String(), err
}

// await calls check until it returns no error.
func (c *testCluster) await(atMost time.Duration, what string, check func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), atMost)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			c.t.Fatalf("after %v it is not so that %s: %v", atMost, what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// dialControl opens a connection from the control plane's namespace.
func (c *testCluster) dialControl(ctx context.Context, network, addr string) (net.Conn, error) {
	return c.net.control.Dial(ctx, network, "", addr)
}

// ignoreNotFound returns err unless it says that an object does not exist.
func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
