//go:build linux

package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

const migrationDocument = "docs/migrating-from-kube-proxy.md"

// webPort is the node port of the Service of this test.
const webPort = 30080

// TestMigration: a cluster with kubeadm's kube-proxy moves to nfproxy by the commands of the migration document, as kubelets run the
// Pods: while both proxies run on a node, nfproxy's Pod runs and is not ready, and its liveness probe does not kill it; it becomes ready
// when kube-proxy has stopped. One node goes back and forth, the other one is drained. A client connects to a node port of each node all
// the time, and no connection fails.
func TestMigration(t *testing.T) {
	needsCluster(t)
	m := &migration{testCluster: newCluster(t, shape{name: "migration", nodes: 2, images: []string{"pause", "agnhost", "coredns", "kube-proxy"}})}
	m.installKubeProxy()
	m.installDNS()
	m.installWeb()
	clients := m.connectToNodePorts()

	m.mustKubectl(m.quoted(`kubectl (-n kube-system patch daemonset kube-proxy -p '.*')\n`)...)
	m.mustKubectl(m.quoted(`kubectl (-n kube-system rollout status daemonset kube-proxy)`)...)
	m.installNfproxyByLabel()
	for _, node := range []string{"node1", "node2"} {
		m.startBeside(node)
		m.endKubeProxy(node)
	}
	m.goBack("node2")
	m.startBeside("node2")
	m.endKubeProxy("node2")
	m.mustKubectl(m.quoted(`kubectl (-n kube-system delete daemonset kube-proxy)\n`)...)

	m.mustKubectl("drain", "node2", "--ignore-daemonsets", "--timeout=2m")
	if pod := m.pod("app.kubernetes.io/name=nfproxy", "node2"); !isReady(pod) {
		t.Errorf("nfproxy is not ready on the drained node: %+v", pod.Status.Conditions)
	}
	m.mustKubectl("uncordon", "node2")
	for _, client := range clients {
		client.stop(t)
	}
}

// migration is a cluster whose service proxy changes.
type migration struct{ *testCluster }

// installKubeProxy applies kubeadm's manifest, with the address of this API server and two more changes: the directory of kernel modules,
// which containerd would create on a machine without modules, is one of the node's own; and kube-proxy leaves the size of the table of
// connections alone, which belongs to the machine and cannot be written in a node's network namespace.
func (m *migration) installKubeProxy() {
	m.t.Helper()
	text, err := os.ReadFile(cluster.KubeadmManifest)
	if err != nil {
		m.t.Fatal(err)
	}
	m.apply(replaceOnce(m.t, cluster.KubeadmManifest, string(text), map[string]string{
		"https://192.0.2.10:6443": controlplane.URL(control.v4),
		"path: /lib/modules\n":    "path: /var/lib/modules\n",
		"maxPerCore: null\n":      "maxPerCore: 0\n",
		" min: null\n":            " min: 0\n",
	}))
	m.awaitRollout("daemonset/kube-proxy")
}

// installNfproxyByLabel applies deploy/nfproxy.yaml with the changes that the document shows, by kustomize.
func (m *migration) installNfproxyByLabel() {
	m.t.Helper()
	dir := m.t.TempDir()
	patch := "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: nfproxy, namespace: kube-system}\n" +
		m.inDocument("(?s)```yaml\n(# the DaemonSet of deploy/nfproxy.yaml\n.*?)```")
	for name, content := range map[string]string{
		"nfproxy.yaml": m.nfproxyManifest(), "patch.yaml": patch, "kustomization.yaml": "resources: [nfproxy.yaml]\npatches: [{path: patch.yaml}]\n",
	} {
		writeFile(m.t, filepath.Join(dir, name), []byte(content))
	}
	m.mustKubectl("apply", "--kustomize", dir)
}

// startBeside starts nfproxy beside kube-proxy on a node.
func (m *migration) startBeside(node string) {
	m.t.Helper()
	m.mustKubectl(strings.Split(strings.Replace(m.inDocument(`kubectl (label node NODE service-proxy=both)\n`), "NODE", node, 1), " ")...)
	m.await(3*time.Minute, "kubelet has found nfproxy running and not ready on "+node, func(context.Context) error {
		pod, err := m.findPod("app.kubernetes.io/name=nfproxy", node)
		if err == nil && (pod.Status.Phase != corev1.PodRunning || isReady(pod)) {
			err = fmt.Errorf("it is %s, ready: %v", pod.Status.Phase, isReady(pod))
		}
		if err != nil {
			return err
		}
		out, err := m.kubectl("", "-n", "kube-system", "events", "--for", "pod/"+pod.Name)
		if err == nil && !strings.Contains(out, "Readiness probe failed: HTTP probe failed with statuscode: 404") {
			err = errors.New(out)
		}
		return err
	})
	pod := m.pod("app.kubernetes.io/name=nfproxy", node)
	if log := m.mustKubectl("-n", "kube-system", "logs", pod.Name); !strings.Contains(log, "in sync") {
		m.t.Errorf("%s: nfproxy is not in sync:\n%s", node, log)
	}
	if out := m.inPod(pod, node, `(/nfproxy dump --diff .*)\n`); out != "" {
		m.t.Errorf("%s: dump --diff: %s", node, out)
	}
}

// endKubeProxy ends kube-proxy on a node where both run, and removes what it has left.
func (m *migration) endKubeProxy(node string) {
	m.t.Helper()
	before := m.pod("app.kubernetes.io/name=nfproxy", node)
	m.mustKubectl(strings.Split(strings.Replace(m.inDocument(`kubectl (label node NODE --overwrite service-proxy=nfproxy)\n`), "NODE", node, 1), " ")...)
	m.awaitNoPod("k8s-app=kube-proxy", node)
	m.await(3*time.Minute, "nfproxy is ready on "+node, func(context.Context) error {
		pod, err := m.findPod("app.kubernetes.io/name=nfproxy", node)
		if err == nil && !isReady(pod) {
			err = fmt.Errorf("conditions: %+v", pod.Status.Conditions)
		}
		return err
	})
	pod := m.pod("app.kubernetes.io/name=nfproxy", node)
	if pod.Name != before.Name || pod.Status.ContainerStatuses[0].RestartCount != 0 {
		m.t.Errorf("%s: Pod %s, %d restarts: want %s without restarts", node, pod.Name, pod.Status.ContainerStatuses[0].RestartCount, before.Name)
	}
	if out := m.inPod(pod, node, `(/nfproxy cleanup --kube-proxy)\n`); out != m.inDocument(`(?s)cleanup --kube-proxy\n +(removed table ip kube-proxy\n) +removed`)+"removed table ip6 kube-proxy\n" {
		m.t.Errorf("%s: cleanup --kube-proxy: %s", node, out)
	}
	for _, line := range []string{"no tables of kube-proxy", "nfproxy answers at 127.0.0.1:10256"} {
		if out, err := m.kubectl("", "-n", "kube-system", "exec", pod.Name, "--", "/nfproxy", "check"); err != nil || !strings.Contains(out, line) {
			m.t.Errorf("%s: check: %v, want %q in\n%s", node, err, line, out)
		}
	}
}

// goBack moves a node from nfproxy to kube-proxy.
func (m *migration) goBack(node string) {
	m.t.Helper()
	steps := regexp.MustCompile(`(?s)## The way back.*?kubectl (label node NODE --overwrite service-proxy=both)\n +kubectl (label node NODE service-proxy-)\n`).FindStringSubmatch(m.document())
	if steps == nil {
		m.t.Fatalf("%s does not have the commands of the way back", migrationDocument)
	}
	m.mustKubectl(strings.Split(strings.Replace(steps[1], "NODE", node, 1), " ")...)
	m.await(3*time.Minute, "kube-proxy serves on "+node, func(context.Context) error {
		pod, err := m.findPod("k8s-app=kube-proxy", node)
		if err == nil && !isReady(pod) {
			err = errors.New("it is not ready")
		}
		if err != nil {
			return err
		}
		return m.onNode(node, "nft", "list", "table", "ip", "kube-proxy")
	})
	m.mustKubectl(strings.Split(strings.Replace(steps[2], "NODE", node, 1), " ")...)
	m.awaitNoPod("app.kubernetes.io/name=nfproxy", node)
	binary, err := filepath.Abs("dist/nfproxy-amd64")
	if err == nil {
		err = m.onNode(node, binary, "cleanup")
	}
	if err != nil {
		m.t.Error(err)
	}
	if err := m.onNode(node, "nft", "list", "table", "ip", "nfproxy"); err == nil {
		m.t.Errorf("%s: nfproxy's tables are there after its cleanup", node)
	}
	m.await(3*time.Minute, "kube-proxy has got its health port on "+node, func(context.Context) error {
		return fetch(m.newHTTPClient(), fmt.Sprintf("http://%s:10256/healthz", nodeAddr(nodeNumber(m.t, node)).v4))
	})
}

// onNode runs a program in the network namespace of a node.
func (m *migration) onNode(node, name string, args ...string) error {
	return m.net.nodes[nodeNumber(m.t, node)-1].Run("", name, args...)
}

// nodeNumber returns the number in the name of a node.
func nodeNumber(t testing.TB, node string) (number int) {
	t.Helper()
	if _, err := fmt.Sscanf(node, "node%d", &number); err != nil {
		t.Fatal(err)
	}
	return number
}

// inPod runs a command of the document in a Pod of nfproxy, and returns what it prints.
func (m *migration) inPod(pod *corev1.Pod, node, pattern string) string {
	m.t.Helper()
	command := strings.Fields(strings.ReplaceAll(m.inDocument(pattern), "NODE", node))
	return m.mustKubectl(append([]string{"-n", "kube-system", "exec", pod.Name, "--"}, command...)...)
}

// findPod returns the Pod with a label on a node.
func (m *migration) findPod(selector, node string) (*corev1.Pod, error) {
	pods, err := m.CoreV1().Pods("kube-system").List(m.t.Context(), metav1.ListOptions{LabelSelector: selector, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) != 1 {
		return nil, fmt.Errorf("%s: %d Pods with %s", node, len(pods.Items), selector)
	}
	return &pods.Items[0], nil
}

// pod returns the Pod with a label on a node.
func (m *migration) pod(selector, node string) *corev1.Pod {
	m.t.Helper()
	pod, err := m.findPod(selector, node)
	if err != nil {
		m.t.Fatal(err)
	}
	return pod
}

// awaitNoPod waits until there is no Pod with a label on a node.
func (m *migration) awaitNoPod(selector, node string) {
	m.t.Helper()
	m.await(3*time.Minute, fmt.Sprintf("%s has no Pod with %s", node, selector), func(ctx context.Context) error {
		pods, err := m.CoreV1().Pods("kube-system").List(ctx, metav1.ListOptions{LabelSelector: selector, FieldSelector: "spec.nodeName=" + node})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%s is there", pods.Items[0].Name)
		}
		return err
	})
}

// isReady reports whether a Pod is ready.
func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// installWeb starts two Pods that serve HTTP, and a Service with a node port. A Pod that ends serves for some seconds more, as Pods
// behind any proxy must.
func (c *testCluster) installWeb() {
	c.t.Helper()
	text, err := os.ReadFile("integration/conformance/testdata/web.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(strings.Replace(string(text), "AGNHOST", c.imageName("agnhost"), 1))
	if out, err := c.kubectl("", "rollout", "status", "deployment/web", "--timeout=2m"); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
}

// document returns the migration document.
func (m *migration) document() string {
	m.t.Helper()
	text, err := os.ReadFile(migrationDocument)
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

// inDocument returns what the only group of a pattern matches in the migration document.
func (m *migration) inDocument(pattern string) string {
	m.t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(m.document())
	if found == nil {
		m.t.Fatalf("%s does not match %s", migrationDocument, pattern)
	}
	return found[1]
}

// quoted returns the words of a command of the document; a word may be in single quotes.
func (m *migration) quoted(pattern string) []string {
	m.t.Helper()
	var words []string
	for _, word := range regexp.MustCompile(`'[^']*'|\S+`).FindAllString(m.inDocument(pattern), -1) {
		words = append(words, strings.Trim(word, "'"))
	}
	return words
}

// mustKubectl runs kubectl and returns what it prints.
func (m *migration) mustKubectl(args ...string) string {
	m.t.Helper()
	begun := time.Now().UTC()
	out, err := m.kubectl("", args...)
	if err != nil {
		m.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	m.t.Logf("%s kubectl %s: %v", begun.Format(time.TimeOnly), strings.Join(args, " "), time.Since(begun).Round(time.Millisecond))
	return out
}

// nodePortClient makes connection after connection to a node port.
type nodePortClient struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	url    string
	total  int
	failed []string
}

// connectToNodePorts starts a client for each node, in the control plane's namespace. A client makes at most 20 connections a second.
func (m *migration) connectToNodePorts() []*nodePortClient {
	var clients []*nodePortClient
	for i := range m.net.nodes {
		ctx, cancel := context.WithCancel(m.t.Context())
		c := &nodePortClient{cancel: cancel, url: fmt.Sprintf("http://%s:%d/hostname", nodeAddr(i+1).v4, webPort)}
		http := m.newHTTPClient()
		m.await(3*time.Minute, "the proxy serves "+c.url, func(context.Context) error { return fetch(http, c.url) })
		c.done.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
				err := fetch(http, c.url)
				if c.total++; err != nil && ctx.Err() == nil {
					c.failed = append(c.failed, time.Now().UTC().Format(time.TimeOnly)+" "+err.Error())
				}
			}
		})
		m.t.Cleanup(func() {
			cancel()
			c.done.Wait()
		})
		clients = append(clients, c)
	}
	return clients
}

// newHTTPClient returns a client in the control plane's namespace, with a connection for each request.
func (m *migration) newHTTPClient() *http.Client {
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DialContext: m.dialControl, DisableKeepAlives: true}}
}

func fetch(client *http.Client, url string) error {
	response, err := client.Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

// stop ends the client, and fails the test if it made few connections or if one failed.
func (c *nodePortClient) stop(t *testing.T) {
	t.Helper()
	c.cancel()
	c.done.Wait()
	t.Logf("%s: %d connections, %d failed", c.url, c.total, len(c.failed))
	if c.total < 100 || len(c.failed) > 0 {
		t.Errorf("%s: %d connections, %d failed: %q", c.url, c.total, len(c.failed), slices.Concat(c.failed[:min(2, len(c.failed))], c.failed[max(0, len(c.failed)-2):]))
	}
}
