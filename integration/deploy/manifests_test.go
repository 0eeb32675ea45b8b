package deploy

import (
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"nfproxy/integration/cluster"
)

const manifest = "deploy/nfproxy.yaml"

// TestManifestRights: the manifest grants exactly the permissions of deploy/rbac.yaml, with which the tests run.
func TestManifestRights(t *testing.T) {
	rights := cluster.ReadManifest(t, "deploy/rbac.yaml")
	var have []*unstructured.Unstructured
	for _, o := range cluster.ReadManifest(t, manifest) {
		if o.GetKind() == "ServiceAccount" || o.GroupVersionKind().Group == "rbac.authorization.k8s.io" {
			have = append(have, o)
		}
	}
	if !reflect.DeepEqual(have, rights) {
		t.Errorf("%s grants %v, deploy/rbac.yaml grants %v", manifest, have, rights)
	}
}

// TestManifestApplies: the API server accepts every object of the manifest, without unknown fields, and the DaemonSet's Pods.
func TestManifestApplies(t *testing.T) {
	c := newDeployment(t)
	c.ApplyAll(cluster.ReadManifest(t, manifest), metav1.DryRunAll)
	pod := c.daemonSetPod()
	pod.GenerateName = "nfproxy-"
	_, err := c.CoreV1().Pods("kube-system").Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Error(err)
	}
}

// daemonSetPod returns a Pod of the manifest's DaemonSet, without a name.
func (c *deployment) daemonSetPod() *corev1.Pod {
	c.T.Helper()
	var set appsv1.DaemonSet
	cluster.ReadObject(c.T, manifest, "DaemonSet", &set)
	return &corev1.Pod{ObjectMeta: set.Spec.Template.ObjectMeta, Spec: set.Spec.Template.Spec}
}
