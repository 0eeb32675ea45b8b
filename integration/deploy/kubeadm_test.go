package deploy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/yaml"

	"nfproxy/integration/cluster"
)

const migrationDocument = "docs/migrating-from-kube-proxy.md"

// TestKubeadmConfigMap: the DaemonSet of deploy/nfproxy.yaml works with kubeadm's ConfigMap unchanged, in either mode. nfproxy
// logs only warnings that the migration document shows: two about sysctls that a container cannot set and one about a mode
// that nfproxy does not have.
func TestKubeadmConfigMap(t *testing.T) {
	c := newDeployment(t)
	b := c.AddBackends("web", 2)
	for _, mode := range []string{cluster.NftablesMode, cluster.DefaultMode} {
		made := c.daemonSetContainer(cluster.KubeadmConfigFiles(t, mode))
		made.OOMScoreAdj = -997
		agent := made.start(t)
		if b != nil {
			c.checkWorks(b)
			b = nil
		}
		cluster.AwaitAnswer(t, 10256, "/readyz", 200, "ok")
		agent.Stop()
		checkWarningsDocumented(t, mode, agent.Log.String())
	}
}

// checkWarningsDocumented fails the test if the log has a warning that the migration document does not show.
func checkWarningsDocumented(t *testing.T, mode, log string) {
	t.Helper()
	document := readFile(t, migrationDocument)
	field := regexp.MustCompile(`(file|setting)=\S+`)
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=ERROR") {
			continue
		}
		for _, shown := range append(field.FindAllString(line, -1), "could not set a number of the kernel; it stays as it is") {
			if !strings.Contains(line, "could not set a number") || !strings.Contains(document, shown) {
				t.Errorf("mode %s: %s does not show %q of the warning %s", mode, migrationDocument, shown, line)
			}
		}
	}
}

// TestNodeByNode: the commands of the migration document move one node from kubeadm's DaemonSet to nfproxy's and back, and
// no other node.
func TestNodeByNode(t *testing.T) {
	c := newDeployment(t)
	c.StartControllerManager()
	c.AddNode("node-b")
	c.ApplyAll(cluster.ReadManifest(t, cluster.KubeadmManifest))
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")

	patch := findInDocument(t, `kubectl -n kube-system patch daemonset kube-proxy -p '(.*)'\n`)
	_, err := c.AppsV1().DaemonSets("kube-system").Patch(t.Context(), "kube-proxy", types.StrategicMergePatchType, []byte(patch),
		metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		t.Fatal(err)
	}
	edits, err := yaml.ToJSON([]byte(findInDocument(t, "(?s)```yaml\n(# the DaemonSet of deploy/nfproxy.yaml\n.*?)```")))
	if err != nil {
		t.Fatal(err)
	}
	c.ApplyAll(patched(t, cluster.ReadManifest(t, manifest), string(edits)))
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
	c.awaitPods("nfproxy")

	c.label(cluster.NodeName, findInDocument(t, `kubectl label node NODE service-proxy=(\w+)\n`))
	c.awaitPods("nfproxy", cluster.NodeName)
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
	c.label(cluster.NodeName, findInDocument(t, `kubectl label node NODE --overwrite service-proxy=(\w+)\n`))
	c.awaitPods("nfproxy", cluster.NodeName)
	c.awaitPods("kube-proxy", "node-b")
	c.label(cluster.NodeName, "both") // back to kube-proxy
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
	c.label(cluster.NodeName, "")
	c.awaitPods("nfproxy")
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
}

// findInDocument returns what the only group of a pattern matches in the migration document.
func findInDocument(t testing.TB, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(readFile(t, migrationDocument))
	if found == nil {
		t.Fatalf("%s does not match %s", migrationDocument, pattern)
	}
	return found[1]
}

// patched applies a strategic merge patch to the DaemonSet among the objects and returns the objects.
func patched(t testing.TB, objects []*unstructured.Unstructured, patch string) []*unstructured.Unstructured {
	t.Helper()
	for _, o := range objects {
		if o.GetKind() != "DaemonSet" {
			continue
		}
		before, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		after, err := strategicpatch.StrategicMergePatch(before, []byte(patch), appsv1.DaemonSet{})
		if err == nil {
			err = o.UnmarshalJSON(after)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return objects
}

// label sets the label service-proxy of a node, or removes it if the value is empty.
func (c *deployment) label(node, value string) {
	c.T.Helper()
	patch := `{"metadata":{"labels":{"service-proxy":"` + value + `"}}}`
	if value == "" {
		patch = `{"metadata":{"labels":{"service-proxy":null}}}`
	}
	if _, err := c.CoreV1().Nodes().Patch(c.T.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

// awaitPods waits until a DaemonSet has Pods on exactly these nodes.
func (c *deployment) awaitPods(set string, nodes ...string) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, fmt.Sprintf("DaemonSet %s has Pods on %q", set, nodes), func() (bool, string) {
		pods, err := c.CoreV1().Pods("kube-system").List(c.T.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		on := []string{}
		for _, p := range pods.Items {
			c.placeOrEnd(&p)
			if len(p.OwnerReferences) == 1 && p.OwnerReferences[0].Name == set && p.DeletionTimestamp == nil {
				on = append(on, p.Spec.NodeName)
			}
		}
		slices.Sort(on)
		return slices.Equal(on, nodes), fmt.Sprintf("it has Pods on %q", on)
	})
}

// placeOrEnd binds a new Pod to its node, as the scheduler does, and deletes a terminating one, as the kubelet does.
func (c *deployment) placeOrEnd(p *corev1.Pod) {
	pods := c.CoreV1().Pods(p.Namespace)
	switch now := int64(0); {
	case p.DeletionTimestamp != nil:
		_ = pods.Delete(c.T.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // fails if it is deleted already
	case p.Spec.NodeName == "":
		required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		node := corev1.ObjectReference{Kind: "Node", Name: required.NodeSelectorTerms[0].MatchFields[0].Values[0]}
		_ = pods.Bind(c.T.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: node}, metav1.CreateOptions{})
	}
}
