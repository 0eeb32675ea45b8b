package fleet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
)

// newThreeNodes starts three nodes in sync, the third with another version and other settings, and a Service web with two endpoints.
func newThreeNodes(t *testing.T) (*nodes, *cluster.Backends) {
	n := newNodes(t)
	web := n.AddBackends("web", 2)
	web.Serve(web.Addrs...)
	n.addHere("nfproxy")
	n.addNode("node-b", 20, "nfproxy")
	n.addNode("node-c", 30, otherProgram, "--masquerade-all", "--external-ips", "none")
	return n, web
}

// TestFleet: kubectl nfproxy asks all nodes, groups what they answer, and finds the node whose tables were changed.
func TestFleet(t *testing.T) {
	n, web := newThreeNodes(t)
	admin := n.as("admin")

	out := admin.run([]string{"status"}, 0, "NODE ", "versions: unknown on 2 nodes (node-a, node-b), v2.0.0 on node-c")
	for _, node := range []string{"node-a +unknown", "node-b +unknown", "node-c +v2.0.0"} {
		if !regexp.MustCompile(node + ` +for \d+s +2 +0 +\d+s ago +0 +-\n`).MatchString(out) {
			t.Errorf("no line of %s", node)
		}
	}
	admin.run([]string{"status", "--nodes", "node-b,node-x"}, 2, "node-x   -", "no answer: there is no such node", "node-b   unknown", "no answer from 1 of 2 nodes")
	admin.run([]string{"status", "-l", "kubernetes.io/os=windows"}, 3, "no node is selected")

	admin.run([]string{"verify"}, 0, "3 nodes compared: frontends compared: 6, differing: 0\n")
	admin.run([]string{"dump", "web"}, 0, "all 3 nodes agree (node-a, node-b, node-c); this is the answer of node-a\n", "10.244.7.1:8080*, 10.244.7.2:8080*")
	admin.run([]string{"explain", "web", "--from", "10.244.1.9"}, 0, "2 of 3 nodes agree (node-a, node-b); this is the answer of node-a\n", "1 of 3 nodes differs (node-c)\n",
		"outcome      sent to one of 2 endpoints", "masquerade-all is set")
	admin.run([]string{"top", "--interval", "200ms"}, 0, "default/web ")
	admin.run([]string{"check"}, 0, "3 nodes checked")
	admin.run([]string{"check", "--node-port-range", "40000-40100"}, 0, "101 of the node ports 40000-40100", "on 3 nodes (node-a, node-b, node-c)")
	admin.run([]string{"check", "--node-port-range", "2-1"}, 3, "--node-port-range: ")

	var report struct {
		DaemonSet       string
		Asked, Answered int
		Total           struct{ Compared int }
		Nodes           []struct {
			Node   string
			Answer struct{ Source string }
		}
	}
	if err := json.Unmarshal([]byte(admin.run([]string{"verify", "-o", "json"}, 0)), &report); err != nil {
		t.Fatal(err)
	}
	if report.DaemonSet != "kube-system/nfproxy" || report.Asked != 3 || report.Answered != 3 || report.Total.Compared != 6 ||
		report.Nodes[2].Node != "node-c" || report.Nodes[2].Answer.Source != "https://192.0.2.10:6443" {
		t.Errorf("verify -o json: %+v", report)
	}

	// The daemon of node-b is stopped, one of its tables is changed, and so is the Service.
	b := n.byID["node-b"]
	if err := b.daemon.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	key := strings.ReplaceAll(web.Frontend, ":", " . tcp . ")
	if err := b.ns.Run("", "nft", "delete element ip nfproxy services { "+key+" }"); err != nil {
		t.Fatal(err)
	}
	web.Serve(web.Addrs[0])
	out = admin.run([]string{"verify"}, 1, "node-b: frontends compared: 2, differing: 1\n  default/web "+web.Frontend+"/tcp\n", "    to be fixed by: add element ip nfproxy services { "+key,
		"delete element ip nfproxy endpoints { "+key+" . 1 }", "3 nodes compared: frontends compared: 6, differing: 1\n", "the tables of 1 node differ from what the API server says")
	if strings.Contains(out, "node-a:") || strings.Contains(out, "node-c:") {
		t.Error("nodes that do not differ are named")
	}
	admin.run([]string{"dump", "web"}, 1, "2 of 3 nodes agree (node-a, node-c)", "1 of 3 nodes differs (node-b)\n  the kernel's tables have no Service default/web", "errors on 1 node")
	admin.run([]string{"explain", "web:http"}, 1, "2 of 3 nodes agree (node-a, node-c)", "the kernel's tables have no port http of Service default/web")
	admin.run([]string{"status"}, 2, "node-b   -", "no answer: the nfproxy daemon, process ", "/readyz: no answer within 5s", "node-a   unknown")
	if err := b.daemon.Cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	admin.run([]string{"verify"}, 0, "3 nodes compared: frontends compared: 6, differing: 0\n")
}

// TestFleetSilentNodes: nodes that do not answer are listed with the reason, and all others are shown.
func TestFleetSilentNodes(t *testing.T) {
	n := newNodes(t)
	n.addHere(otherProgram)
	n.addNode("node-b", 20, otherProgram)
	admin := n.as("admin")
	b := n.byID["node-b"].kubelet

	b.set(path(t, otherProgram), true)
	impatient := admin
	impatient.interrupt = b.hung
	impatient.run([]string{"status", "--parallel", "1", "--node-timeout", "1m"}, 2, "node-b   -", "no answer: interrupted", "node-a   v2.0.0")
	admin.run([]string{"status", "--node-timeout", "10s"}, 2, "node-b   -", "no answer: no answer within 10s", "node-a   v2.0.0")

	// An older version has no such command.
	old := filepath.Join(cluster.PublicDir(t), "nfproxy")
	if err := os.WriteFile(old, []byte("#!/bin/sh\nshift\nexec "+path(t, otherProgram)+" older\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.set(old, false)
	admin.run([]string{"status"}, 2, "the nfproxy there is another version and does not know this command (image nfproxy:v", `unknown command "older"`, "node-a   v2.0.0")
	b.set("/does/not/exist", false)
	admin.run([]string{"verify"}, 2, "no answer from node-b: exec in pod nfproxy-node-b: ", "no such file or directory", "1 node compared: ")
	b.set(path(t, otherProgram), false)

	n.AddNode("node-c")
	n.addPod("node-c", n.set, crashing)
	n.AddNode("node-d")
	n.AddNode("win-1")
	windows, err := n.CoreV1().Nodes().Get(t.Context(), "win-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	windows.Labels[corev1.LabelOSStable] = "windows"
	if _, err := n.CoreV1().Nodes().Update(t.Context(), windows, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	n.AddNode("node-e") // its kubelet does not listen
	n.addPod("node-e", n.set, running)
	out := admin.run([]string{"status"}, 2, "no answer: Pod nfproxy-node-c does not run: CrashLoopBackOff (restarts: 7)", "no answer: the node has no Pod of the DaemonSet",
		"node-e   -", "the DaemonSet kube-system/nfproxy does not select win-1", "no answer from 3 of 5 nodes")
	if last := strings.Split(out, "\n"); !strings.HasPrefix(last[len(last)-3], "node-b ") || !strings.HasPrefix(last[1], "node-c ") {
		t.Errorf("the worst are not first:\n%s", out)
	}
}

// TestFleetRights: a right that the user lacks is named with verb, resource and namespace; what the user may ask is answered.
func TestFleetRights(t *testing.T) {
	n := newNodes(t)
	n.addHere("nfproxy")
	n.addNode("node-b", 20, "nfproxy")

	n.as("nobody").run([]string{"status"}, 3, "you lack the right to list daemonsets in all namespaces: ", `User "nobody" cannot list resource "daemonsets"`, "name that with -n")
	for _, user := range []string{"viewer", "one", "spdy"} {
		n.allow(user, "kube-system", "apps", "daemonsets", "list")
		n.allow(user, "kube-system", "", "pods", "list")
		n.allow(user, "", "", "nodes", "list")
	}
	n.allow("half", "kube-system", "apps", "daemonsets", "list")
	n.as("half").run([]string{"status", "-n", "kube-system"}, 3, "you lack the right to list pods in namespace kube-system: ")
	n.allow("half", "kube-system", "", "pods", "list")
	n.as("half").run([]string{"status", "-n", "kube-system"}, 3, "you lack the right to list nodes in the cluster: ")

	n.as("viewer").run([]string{"status", "-n", "kube-system"}, 2, "node-a   -", "node-b   -", "you lack the right to create pods/exec in namespace kube-system: ")
	n.allow("one", "kube-system", "", "pods/exec", "create", "nfproxy-node-a")
	n.as("one").run([]string{"status", "-n", "kube-system"}, 2, "node-a   unknown", "node-b   -", "you lack the right to create pods/exec in namespace kube-system: ")
	n.allow("spdy", "kube-system", "", "pods/exec", "create") // WebSocket needs get as well
	n.as("spdy").run([]string{"status", "-n", "kube-system"}, 0, "node-a   unknown", "node-b   unknown")
}

// TestFleetDaemonSets: without a DaemonSet, and with several, no node is asked; flags choose one.
func TestFleetDaemonSets(t *testing.T) {
	n := newNodes(t)
	n.addHere("nfproxy")
	admin := n.as("admin")
	admin.run([]string{"status", "-n", "default"}, 3, "there is no DaemonSet with the label app.kubernetes.io/name=nfproxy in namespace default; -n names another namespace, --daemonset")
	admin.run([]string{"status", "--service-proxy-name", "blue"}, 3, "there is no DaemonSet with the label app.kubernetes.io/name=nfproxy-blue in any namespace")
	admin.run([]string{"status", "--daemonset", "other"}, 3, "there is no DaemonSet other in any namespace")

	other := n.set.DeepCopy()
	other.ObjectMeta = metav1.ObjectMeta{Name: "second", Namespace: "default", Labels: n.set.Labels}
	n.createSet(other)
	admin.run([]string{"status"}, 3, "there are several DaemonSets of nfproxy, choose one with -n and --daemonset: default/second, kube-system/nfproxy")
	admin.run([]string{"status", "-n", "kube-system"}, 0, "node-a   unknown")
	admin.run([]string{"status", "--daemonset", "second"}, 2, "no answer: the node has no Pod of the DaemonSet")

	admin.run([]string{"explain"}, 3, "explain takes one argument, ADDRESS:PORT")
	admin.run([]string{"status", "--parallel", "0"}, 3, "--parallel and --node-timeout must be positive")
	admin.run([]string{"status", "--nodes", "node-a,"}, 3, "--nodes contains an empty name")
	admin.run([]string{"verify", "web"}, 3, `verify takes no arguments; unexpected "web"`)
	kubectl{t, "/does/not/exist", nil}.run([]string{"status"}, 3, "kubectl-nfproxy: kubeconfig: stat /does/not/exist: no such file or directory")
}
