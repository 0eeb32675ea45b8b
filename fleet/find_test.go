package fleet

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestPodsOfNodes: while a Pod is replaced, the one that runs is asked; Pods of other owners are not.
func TestPodsOfNodes(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "nfproxy", UID: "own"}}
	pod := func(name string, owner types.UID, phase corev1.PodPhase, ending bool, command ...string) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{{UID: owner, Controller: new(true)}}},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "sidecar"}, {Name: "nfproxy", Command: command}}}, Status: corev1.PodStatus{Phase: phase}}
		if ending {
			p.DeletionTimestamp = new(metav1.Now())
		}
		return p
	}
	nodes := []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", LastTransitionTime: metav1.NewTime(time.Unix(100, 0))}}}}}
	for _, c := range []struct {
		pods []corev1.Pod
		want string
	}{
		{nil, "the node has no Pod of the DaemonSet"},
		{[]corev1.Pod{pod("a", "other", corev1.PodRunning, false)}, "the node has no Pod of the DaemonSet"},
		{[]corev1.Pod{pod("a", "own", corev1.PodRunning, true), pod("b", "own", corev1.PodPending, false)}, "a nfproxy /nfproxy"},
		{[]corev1.Pod{pod("a", "own", corev1.PodRunning, true), pod("b", "own", corev1.PodRunning, false, "/usr/bin/nfproxy")}, "b nfproxy /usr/bin/nfproxy"},
		{[]corev1.Pod{pod("b", "own", corev1.PodPending, false)}, "Pod b does not run: Pending"},
	} {
		f := newFleet(set, nodes, c.pods, Query{}, time.Unix(160, 0))
		at := f.Targets[0]
		got := at.Missing
		if got == "" {
			got = fmt.Sprint(at.Pod, " ", at.Container, " ", at.Program)
		}
		if got != c.want || at.NotReady != "the node is not ready since 1m0s: NodeStatusUnknown" {
			t.Errorf("%v: %q (%s), want %q", c.pods, got, at.NotReady, c.want)
		}
	}
}

// TestNodesOfQuery: a node that is named and missing is a target that cannot be asked, and so is one without the labels.
func TestNodesOfQuery(t *testing.T) {
	nodes := []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Name: "b"}}}
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{}, "[a: the node has no Pod of the DaemonSet b: the node has no Pod of the DaemonSet]"},
		{Query{Nodes: []string{"b", "x", "x"}}, "[b: the node has no Pod of the DaemonSet x: there is no such node]"},
		{Query{Nodes: []string{"x"}, Selector: "zone=1"}, `[x: there is no such node with the labels "zone=1"]`},
	} {
		var got []string
		for _, at := range newFleet(&appsv1.DaemonSet{}, nodes, nil, c.q, time.Now()).Targets {
			got = append(got, at.Node+": "+at.Missing)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("%+v: %v, want %s", c.q, got, c.want)
		}
	}
}
