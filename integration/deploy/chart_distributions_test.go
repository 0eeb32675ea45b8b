package deploy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestChartValuesFiles: Helm installs the chart with each of its values files, an API server accepts the Pods, and nfproxy can read the
// configuration; and each file says from which documents it is and whether it was tried. The statement about Pod Security in the file for
// Talos Linux holds.
func TestChartValuesFiles(t *testing.T) {
	files, err := filepath.Glob(chart + "/values/*.yaml")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	c := newDeployment(t)
	kubeconfig := c.Kubeconfig(c.AdminConfig())
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			text := readFile(t, file)
			for _, want := range []string{`(?m)^# (Tried|Not tried)\b`, `(?m)^# Documents: "`, `(?m)^#.* --values ` + file + ` `} {
				if !regexp.MustCompile(want).MatchString(text) {
					t.Errorf("%s has no line %s", file, want)
				}
			}
			if document := readFile(t, "docs/deploying.md"); !strings.Contains(document, "`"+name+".yaml`") {
				t.Errorf("docs/deploying.md does not name %s.yaml", name)
			}
			release := func(args ...string) {
				t.Helper()
				if _, err := helm(t, slices.Concat(args, []string{"--namespace", "kube-system", "--kubeconfig", kubeconfig})...); err != nil {
					t.Fatal(err)
				}
			}
			objects := rendered(t, text)
			if objects[0].GetKind() == "" || len(objects) < 4 {
				t.Errorf("%d objects", len(objects))
			}
			for _, o := range objects {
				if err := c.Apply(o, metav1.DryRunAll); err != nil {
					t.Error(err)
				}
				c.checkReadable(name, o)
			}
			release("install", "nfproxy", chart, "--take-ownership", "--force-conflicts", "--values", file, "--set", "image.repository=registry/nfproxy")
			set, err := c.AppsV1().DaemonSets("kube-system").Get(t.Context(), "nfproxy", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if image := set.Spec.Template.Spec.Containers[0].Image; !strings.HasPrefix(image, "registry/nfproxy:v") {
				t.Errorf("image %s", image)
			}
			release("uninstall", "nfproxy")
		})
	}
	t.Run("Pod Security", func(t *testing.T) {
		c.checkPodSecurity(t, readFile(t, chart+"/values/talos.yaml"))
	})
}

// checkPodSecurity fails the test unless the chart's Pods need the Pod Security standard privileged.
func (c *deployment) checkPodSecurity(t *testing.T, values string) {
	t.Helper()
	for level, accepted := range map[string]bool{"baseline": false, "privileged": true} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "with-" + level,
			Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
		if _, err := c.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "nfproxy"}}
		if _, err := c.CoreV1().ServiceAccounts(namespace.Name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, o := range rendered(t, values) {
			if o.GetKind() != "DaemonSet" {
				continue
			}
			var set appsv1.DaemonSet
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &set); err != nil {
				t.Fatal(err)
			}
			pod := &corev1.Pod{ObjectMeta: set.Spec.Template.ObjectMeta, Spec: set.Spec.Template.Spec}
			pod.GenerateName, pod.Spec.PriorityClassName = "nfproxy-", ""
			_, err := c.CoreV1().Pods(namespace.Name).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if accepted != (err == nil) || err != nil && !strings.Contains(err.Error(), "violates PodSecurity") {
				t.Errorf("%s: accepted %t, want %t: %v", level, err == nil, accepted, err)
			}
		}
	}
}
