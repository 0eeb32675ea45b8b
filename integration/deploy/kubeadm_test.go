package deploy

import (
	"fmt"
	"os"
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

// TestKubeadmConfigMap: kubeadm's ConfigMap does for the shipped DaemonSet as it is, in either mode. Two warnings are about
// numbers that a container cannot set, one about a mode that is none here, and no other comes.
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

// onlyDocumentedWarnings fails the test if the log has a warning that the document does not show.
func checkWarningsDocumented(t *testing.T, when, log string) {
	t.Helper()
	document := readText(t, migrationDocument)
	field := regexp.MustCompile(`(file|setting)=\S+`)
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=ERROR") {
			continue
		}
		for _, said := range append(field.FindAllString(line, -1), "could not set a number of the kernel; it stays as it is") {
			if !strings.Contains(line, "could not set a number") || !strings.Contains(document, said) {
				t.Errorf("%s: %s does not show %q of %s", when, migrationDocument, said, line)
			}
		}
	}
}

// TestNodeByNode: the commands of the document move one node from kubeadm's DaemonSet to nfproxy's, and no other node.
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
	c.label(cluster.NodeName, "both") // the way back
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
	c.label(cluster.NodeName, "")
	c.awaitPods("nfproxy")
	c.awaitPods("kube-proxy", cluster.NodeName, "node-b")
}

// fromDocument is what the document says at a pattern's only group.
func findInDocument(t testing.TB, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(readText(t, migrationDocument))
	if found == nil {
		t.Fatalf("%s has no %s", migrationDocument, pattern)
	}
	return found[1]
}

func readText(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// patched are the objects with a patch made to the DaemonSet among them.
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

// label gives a node the label, or with no value takes it.
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

// proxies waits until a DaemonSet has Pods on these nodes and no others.
func (c *deployment) awaitPods(set string, nodes ...string) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, fmt.Sprintf("%s is on %q", set, nodes), func() (bool, string) {
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
		return slices.Equal(on, nodes), fmt.Sprint("it is on ", on)
	})
}

// placeOrEnd plays the scheduler for a Pod that is new, and the kubelet for one that is to end.
func (c *deployment) placeOrEnd(p *corev1.Pod) {
	pods := c.CoreV1().Pods(p.Namespace)
	switch now := int64(0); {
	case p.DeletionTimestamp != nil:
		_ = pods.Delete(c.T.Context(), p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}) // it may have gone
	case p.Spec.NodeName == "":
		required := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		node := corev1.ObjectReference{Kind: "Node", Name: required.NodeSelectorTerms[0].MatchFields[0].Values[0]}
		_ = pods.Bind(c.T.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: p.Name}, Target: node}, metav1.CreateOptions{})
	}
}
