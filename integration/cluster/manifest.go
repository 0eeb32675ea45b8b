package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// ReadManifest returns the objects in a YAML file.
func ReadManifest(t testing.TB, path string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return DecodeManifest(t, path, data)
}

// DecodeManifest returns the objects in data; path names it in error messages.
func DecodeManifest(t testing.TB, path string, data []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		object := new(unstructured.Unstructured)
		err := documents.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, object)
	}
}

// ReadObject decodes the first object of a kind in a YAML file into a typed object and fails the test on unknown fields.
func ReadObject(t testing.TB, path, kind string, into any) {
	t.Helper()
	objects := ReadManifest(t, path)
	i := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind })
	if i < 0 {
		t.Fatalf("%s has no %s", path, kind)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(objects[i].Object, into, true); err != nil {
		t.Fatalf("%s: %s: %v", path, kind, err)
	}
}

// ApplyAll applies several objects and fails the test if the API server rejects one of them.
func (c *Cluster) ApplyAll(all []*unstructured.Unstructured, dryRun ...string) {
	c.T.Helper()
	for _, o := range all {
		if err := c.Apply(o, dryRun...); err != nil {
			c.T.Error(err)
		}
	}
}

// Apply applies an object on the server side; the API server rejects unknown fields. With metav1.DryRunAll the API server
// stores nothing.
func (c *Cluster) Apply(o *unstructured.Unstructured, dryRun ...string) error {
	c.T.Helper()
	groups, err := restmapper.GetAPIGroupResources(c.Discovery())
	if err != nil {
		return err
	}
	kind := o.GroupVersionKind()
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(c.AdminConfig())
	if err != nil {
		return err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	force := true
	// Cluster-scoped objects, such as ClusterRoles, have an empty namespace.
	_, err = objects.Resource(mapping.Resource).Namespace(o.GetNamespace()).Patch(c.T.Context(), o.GetName(), types.ApplyPatchType,
		text, metav1.PatchOptions{DryRun: dryRun, FieldManager: "test", Force: &force, FieldValidation: metav1.FieldValidationStrict})
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind.Kind, o.GetName(), err)
	}
	return nil
}
