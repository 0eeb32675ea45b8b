package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podsByNode returns the Pod of a DaemonSet on each node. While a Pod is replaced, it is the one that runs.
func podsByNode(set *appsv1.DaemonSet, pods []corev1.Pod) map[string]*corev1.Pod {
	all := make(map[string]*corev1.Pod)
	for i := range pods {
		p := &pods[i]
		if owner := metav1.GetControllerOf(p); owner == nil || owner.UID != set.UID || p.Spec.NodeName == "" {
			continue
		}
		if other := all[p.Spec.NodeName]; other == nil || usefulness(p) > usefulness(other) {
			all[p.Spec.NodeName] = p
		}
	}
	return all
}

// usefulness orders Pods: one that runs comes before one that ends, which comes before one that does not run.
func usefulness(p *corev1.Pod) int {
	switch {
	case p.Status.Phase != corev1.PodRunning:
		return 0
	case p.DeletionTimestamp != nil:
		return 1
	}
	return 2
}

// targetOf returns where commands run in a Pod, which is nil if the node has none.
func targetOf(p *corev1.Pod) Target {
	if p == nil {
		return Target{Missing: "the node has no Pod of the DaemonSet"}
	}
	c := containerOf(p)
	t := Target{Pod: p.Name, Container: c.Name, Image: c.Image, Program: program}
	if len(c.Command) > 0 {
		t.Program = c.Command[0]
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == c.Name && s.State.Running == nil {
			t.Missing = fmt.Sprintf("Pod %s does not run: %s", p.Name, stateText(s))
		}
	}
	if p.Status.Phase != corev1.PodRunning && t.Missing == "" {
		t.Missing = fmt.Sprintf("Pod %s does not run: %s", p.Name, cmp.Or(string(p.Status.Phase), "its kubelet has not reported it"))
	}
	return t
}

// containerOf returns nfproxy's container of a Pod: the one of that name, or the first.
func containerOf(p *corev1.Pod) corev1.Container {
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == program[1:] })
	return p.Spec.Containers[max(0, i)]
}

// stateText describes a container that does not run.
func stateText(s corev1.ContainerStatus) string {
	text := "no state"
	switch {
	case s.State.Waiting != nil:
		text = cmp.Or(s.State.Waiting.Reason, "waiting")
	case s.State.Terminated != nil:
		text = fmt.Sprintf("%s, exit code %d", cmp.Or(s.State.Terminated.Reason, "ended"), s.State.Terminated.ExitCode)
	}
	if s.RestartCount > 0 {
		text += fmt.Sprintf(" (restarts: %d)", s.RestartCount)
	}
	return text
}

// notReady describes a node whose kubelet does not report it ready.
func notReady(n corev1.Node, now time.Time) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return fmt.Sprintf("the node is not ready since %s: %s", now.Sub(c.LastTransitionTime.Time).Round(time.Second), c.Reason)
		}
	}
	return ""
}
