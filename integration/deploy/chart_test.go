package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"nfproxy/integration/cluster"
)

const chart = "deploy/helm/nfproxy"

// manifestValues are the values with which the chart renders the manifest.
const manifestValues = "apiServer: https://kube-apiserver:6443"

// helm runs helm without the user's configuration and returns its standard output. An error contains what helm prints.
func helm(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), ".bin/helm", args...)
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("helm is not built: run `make helm` (%v)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("helm %s: %w: %s%s", strings.Join(args, " "), err, &out, &stderr)
	}
	return out.Bytes(), nil
}

// chartText renders a chart, a directory or a package, with values in YAML and more in the syntax of --set-json.
func chartText(t testing.TB, chart, values string, set ...string) ([]byte, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte(values), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"template", "nfproxy", chart, "--namespace", "kube-system", "--values", file}
	for _, s := range set {
		args = append(args, "--set-json", s)
	}
	return helm(t, args...)
}

// rendered returns the objects that the chart renders.
func rendered(t testing.TB, values string, set ...string) []*unstructured.Unstructured {
	t.Helper()
	text, err := chartText(t, chart, values, set...)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.DecodeManifest(t, chart, text)
}

// TestChartLints: helm lint reports no warning, and the package of the chart renders the same objects as the directory,
// including the alerts and the dashboard, which are symbolic links in the directory.
func TestChartLints(t *testing.T) {
	if out, err := helm(t, "lint", "--strict", chart, "--set", "apiServer=https://kube-apiserver:6443"); err != nil {
		t.Error(err)
	} else if strings.Contains(string(out), "[WARNING]") {
		t.Errorf("%s", out)
	}
	dir := t.TempDir()
	if _, err := helm(t, "package", chart, "--destination", dir); err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Glob(dir + "/*.tgz")
	if err != nil || len(packages) != 1 {
		t.Fatal(packages, err)
	}
	for _, values := range []string{manifestValues, monitored} {
		want, err := chartText(t, chart, values)
		if err != nil {
			t.Fatal(err)
		}
		have, err := chartText(t, packages[0], values)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(have)); diff != "" {
			t.Errorf("the package renders other objects than the directory (-directory +package):\n%s", diff)
		}
	}
}

// TestChartIsTheManifest: the chart renders the objects of deploy/nfproxy.yaml and the permissions of deploy/rbac.yaml, apart
// from the labels that helm requires and the annotation that replaces the Pods when the address of the API server changes.
func TestChartIsTheManifest(t *testing.T) {
	have := make(map[string]map[string]any)
	for _, o := range rendered(t, manifestValues) {
		have[o.GetKind()+" "+o.GetName()] = fieldsIn(t, withoutHelm(t, o))
	}
	for _, file := range []string{manifest, "deploy/rbac.yaml"} {
		want := make(map[string]map[string]any)
		for _, o := range cluster.ReadManifest(t, file) {
			want[o.GetKind()+" "+o.GetName()] = fieldsIn(t, o)
		}
		if file == "deploy/rbac.yaml" {
			maps.DeleteFunc(have, func(object string, _ map[string]any) bool { return want[object] == nil })
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("the chart differs from %s (-manifest +chart):\n%s", file, diff)
		}
	}
}

// withoutHelm removes the labels and the annotation of TestChartIsTheManifest, which the object must have.
func withoutHelm(t *testing.T, o *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	labels := o.GetLabels()
	for _, name := range []string{"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by",
		"helm.sh/chart"} {
		if labels[name] == "" {
			t.Errorf("%s %s has no label %s", o.GetKind(), o.GetName(), name)
		}
		delete(labels, name)
	}
	o.SetLabels(labels)
	if o.GetKind() == "DaemonSet" {
		at := []string{"spec", "template", "metadata", "annotations"}
		annotations, _, err := unstructured.NestedStringMap(o.Object, at...)
		if err != nil || !maps.Equal(annotations, map[string]string{"nfproxy/api-server": "https://kube-apiserver:6443"}) {
			t.Errorf("the annotations of the Pods are %v (%v)", annotations, err)
		}
		unstructured.RemoveNestedField(o.Object, at...)
	}
	return o
}

// fieldsIn returns the fields of an object. The YAML files in a ConfigMap are decoded.
func fieldsIn(t *testing.T, o *unstructured.Unstructured) map[string]any {
	t.Helper()
	if o.GetKind() == "ConfigMap" {
		data := o.Object["data"].(map[string]any)
		for name := range data {
			var file map[string]any
			if err := yaml.UnmarshalStrict([]byte(data[name].(string)), &file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			data[name] = file
		}
	}
	return o.Object
}
