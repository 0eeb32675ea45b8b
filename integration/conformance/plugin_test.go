//go:build linux

package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/controlplane"
)

// TestPlugin: on a cluster with kubelets, where helm installed nfproxy from the chart, `kubectl nfproxy status` finds every node in sync and
// verify no difference. When nfproxy on one node is stopped and its table broken, verify names the node and the frontend, and status
// the node. When nfproxy continues, it repairs its table.
func TestPlugin(t *testing.T) {
	needsCluster(t)
	c := newCluster(t, shape{name: "plugin", nodes: 3, images: []string{"pause", "agnhost", "coredns"}})
	c.installChart()
	c.installDNS()
	c.installWeb()
	plugin := c.plugin()

	c.await(3*time.Minute, "every node is in sync", func(context.Context) error {
		out, err := plugin("status")
		if err == nil && strings.Count(out, "for ") != 3 {
			err = fmt.Errorf("status: %s", out)
		}
		return err
	})
	out, err := plugin("verify")
	if err != nil || !strings.Contains(out, "3 nodes compared") || !strings.Contains(out, "differing: 0") {
		t.Errorf("verify on a cluster in sync: %v\n%s", err, out)
	}
	if out, err := plugin("explain", "default/web"); err != nil || !strings.Contains(out, "all 3 nodes agree") {
		t.Errorf("explain: %v\n%s", err, out)
	}

	const broken = 2
	daemon := c.daemonOn(broken)
	if err := daemon.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Signal(syscall.SIGCONT) })
	web, err := c.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	frontend := fmt.Sprintf("%s . tcp . %d", web.Spec.ClusterIP, web.Spec.Ports[0].Port)
	if err := c.net.nodes[broken-1].Run("", "nft", "delete", "element", "ip", "nfproxy", "services", "{ "+frontend+" }"); err != nil {
		t.Fatal(err)
	}
	out, err = plugin("verify")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("verify with a broken table: %v", err)
	}
	for _, want := range []string{"node2: ", fmt.Sprintf("default/web %s:%d/tcp", web.Spec.ClusterIP, web.Spec.Ports[0].Port), "differing: 1"} {
		if !strings.Contains(out, want) {
			t.Errorf("verify with a broken table does not say %q:\n%s", want, out)
		}
	}
	if out, err := plugin("status"); err == nil || !regexp.MustCompile(`(?s)\nnode2 .* no answer: .*\nnode1 `).MatchString(out) {
		t.Errorf("status while nfproxy is stopped on node2: %v\n%s", err, out)
	}

	if err := daemon.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.await(3*time.Minute, "node2 has repaired its table", func(context.Context) error {
		out, err := plugin("verify")
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
}

// installChart installs the chart by helm and waits until nfproxy is in sync on all nodes.
func (c *testCluster) installChart() {
	c.t.Helper()
	out, err := c.runInControl("helm", nil, "", "install", "nfproxy", "deploy/helm/nfproxy", "--namespace", "kube-system",
		"--kubeconfig", c.kubeconfig, "--set", "apiServer="+controlplane.URL(control.v4), "--set-string", `clusterCIDR=`+clusterCIDR4+`\,`+clusterCIDR6)
	if err != nil {
		c.t.Fatalf("helm install: %v\n%s", err, out)
	}
	c.awaitRollout("daemonset/nfproxy")
}

// plugin installs the program as a plugin of kubectl, and returns a function that runs `kubectl nfproxy` with arguments and returns
// what it prints.
func (c *testCluster) plugin() func(args ...string) (string, error) {
	c.t.Helper()
	binary, err := filepath.Abs("dist/nfproxy-amd64")
	if err == nil {
		err = os.Symlink(binary, filepath.Join(c.dir, "kubectl-nfproxy"))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return func(args ...string) (string, error) {
		out, err := c.runInControl("kubectl", []string{"PATH=" + c.dir, "KUBECONFIG=" + c.kubeconfig}, "", append([]string{"nfproxy"}, args...)...)
		c.t.Logf("kubectl nfproxy %s\n%s", strings.Join(args, " "), out)
		return out, err
	}
}

// daemonOn returns the process of nfproxy in the network namespace of a node.
func (c *testCluster) daemonOn(node int) *os.Process {
	c.t.Helper()
	var namespace string
	err := c.net.nodes[node-1].Do(func() (err error) {
		namespace, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, dir := range processes {
		arguments, _ := os.ReadFile(dir + "/cmdline") // a process can end meanwhile
		in, _ := os.Readlink(dir + "/ns/net")
		if in != namespace || !bytes.HasPrefix(arguments, []byte("/nfproxy\x00run\x00")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "%d", &pid); err != nil {
			c.t.Fatal(err)
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			c.t.Fatal(err)
		}
		return process
	}
	c.t.Fatalf("nfproxy does not run on %s", nodeName(node))
	return nil
}
