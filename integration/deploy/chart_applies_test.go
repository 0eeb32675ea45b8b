package deploy

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"

	"nfproxy/integration/cluster"
)

// TestChartApplies: an API server with the CRDs of the Prometheus operator accepts the objects that the chart renders for
// several values, without unknown fields, and the DaemonSet's Pods; and nfproxy can read its configuration. Helm installs,
// upgrades and uninstalls the chart (checkInstall).
func TestChartApplies(t *testing.T) {
	c := newDeployment(t)
	c.applyCRDs()
	monitoring := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "monitoring"}}
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), monitoring, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var every []string // all values that add or change something, none that leaves an object out
	for _, v := range valueChanges {
		if v.shows != "" && v.path != "existingConfigMap" {
			every = append(every, v.path+"="+v.value)
		}
	}
	for name, objects := range map[string][]*unstructured.Unstructured{
		"default":              rendered(t, manifestValues),
		"monitored":            rendered(t, monitored),
		"kubeadm's ConfigMap":  rendered(t, "existingConfigMap: kube-proxy\npodLabels: {k8s-app: kube-proxy}"),
		"existing permissions": rendered(t, manifestValues, "serviceAccount.create=false", "rbac.create=false"),
		"every value":          rendered(t, monitored, every...),
		"a bridge": rendered(t, manifestValues, `detectLocalMode="BridgeInterface"`,
			`config.detectLocal={"bridgeInterface":"cni0"}`),
	} {
		for _, o := range objects {
			if err := c.Apply(o, metav1.DryRunAll); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			c.checkReadable(name, o)
		}
	}
	c.checkInstall()
}

// applyCRDs applies the CRDs of the Prometheus operator that the chart uses and waits until the API server serves them.
func (c *deployment) applyCRDs() {
	c.T.Helper()
	for _, name := range []string{"podmonitors", "prometheusrules"} {
		for _, o := range cluster.ReadManifest(c.T, ".bin/crds/monitoring.coreos.com_"+name+".yaml") { // make helm puts it there
			if err := c.Apply(o); err != nil {
				c.T.Fatal(err)
			}
		}
	}
	for _, o := range rendered(c.T, monitored) {
		if o.GroupVersionKind().Group == "monitoring.coreos.com" {
			cluster.EventuallyTrue(c.T, "the API server accepts a "+o.GetKind(), func() (bool, string) {
				err := c.Apply(o, metav1.DryRunAll)
				return err == nil, fmt.Sprint(err)
			})
		}
	}
}

// checkReadable fails the test unless the API server accepts the Pods of the chart's DaemonSet and nfproxy can read the chart's
// ConfigMap. It ignores other objects.
func (c *deployment) checkReadable(what string, o *unstructured.Unstructured) {
	c.T.Helper()
	switch o.GetKind() + " " + o.GetName() {
	case "DaemonSet nfproxy":
		var set appsv1.DaemonSet
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &set, true); err != nil {
			c.T.Fatalf("%s: %v", what, err)
		}
		pod := &corev1.Pod{ObjectMeta: set.Spec.Template.ObjectMeta, Spec: set.Spec.Template.Spec}
		pod.GenerateName = "nfproxy-"
		dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
		if _, err := c.CoreV1().Pods(set.Namespace).Create(c.T.Context(), pod, dry); err != nil {
			c.T.Errorf("%s: %v", what, err)
		}
	case "ConfigMap nfproxy":
		data, _, err := unstructured.NestedStringMap(o.Object, "data")
		if err != nil {
			c.T.Fatalf("%s: %v", what, err)
		}
		var config v1alpha1.KubeProxyConfiguration
		if err := yaml.UnmarshalStrict([]byte(data["config.conf"]), &config); err != nil {
			c.T.Errorf("%s: %v", what, err)
		}
		if _, err := clientcmd.Load([]byte(data["kubeconfig.conf"])); err != nil {
			c.T.Errorf("%s: %v", what, err)
		}
	}
}
