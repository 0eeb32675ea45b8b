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

// manifestValues are the chart's values that say what the manifest does.
const manifestValues = "apiServer: https://kube-apiserver:6443"

// helm runs it, with nothing of the user's, and returns what it prints. The error has what it complains of.
func helm(t testing.TB, args ...string) ([]byte, error) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), ".bin/helm", args...)
	cmd.Env = []string{"HOME=" + home, "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("helm is not built: run `make helm` (%v)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("helm %s: %w: %s%s", strings.Join(args, " "), err, &out, &complaints)
	}
	return out.Bytes(), nil
}

// chartText returns what the chart, a directory or a package, makes of values: YAML, and what --set-json takes.
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

// rendered returns the objects in that.
func rendered(t testing.TB, values string, set ...string) []*unstructured.Unstructured {
	t.Helper()
	text, err := chartText(t, chart, values, set...)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.DecodeManifest(t, chart, text)
}

// TestChartLints: helm finds nothing to warn of, and makes a package that renders the same: with the alerts and the
// dashboard, which are links here.
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
		is, err := chartText(t, packages[0], values)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(is)); diff != "" {
			t.Errorf("the package renders something else (-directory +package):\n%s", diff)
		}
	}
}

// TestChartIsTheManifest: the chart makes the objects of deploy/nfproxy.yaml, and the rights in deploy/rbac.yaml, but for
// the labels that helm wants and the annotation that an API server's address makes new Pods by.
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
			t.Errorf("the chart has something else than %s (-manifest +chart):\n%s", file, diff)
		}
	}
}

// withoutHelm takes what helm wants from an object, which has to have it.
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
			t.Errorf("the Pods have the annotations %v (%v)", annotations, err)
		}
		unstructured.RemoveNestedField(o.Object, at...)
	}
	return o
}

// fieldsIn returns the fields of an object. Of a ConfigMap's YAML it is what that says.
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
