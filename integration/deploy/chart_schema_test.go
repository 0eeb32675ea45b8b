package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// TestChartSchema: the definitions in the chart's schema follow the Go types of Kubernetes, so that a misspelt field is
// rejected. -update rewrites them.
func TestChartSchema(t *testing.T) {
	const file = chart + "/values.schema.json"
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(have, &schema); err != nil {
		t.Fatal(err)
	}
	d := definitions{}
	for _, typ := range []reflect.Type{reflect.TypeFor[corev1.LocalObjectReference](), reflect.TypeFor[corev1.EnvVar](),
		reflect.TypeFor[corev1.ResourceRequirements](), reflect.TypeFor[corev1.Toleration](), reflect.TypeFor[corev1.Affinity](),
		reflect.TypeFor[appsv1.DaemonSetUpdateStrategy](), reflect.TypeFor[v1alpha1.KubeProxyConfiguration]()} {
		d.schema(typ)
	}
	// Settings that the chart has values of its own for, or that must not change.
	config := d["KubeProxyConfiguration"].(map[string]any)["properties"].(map[string]any)
	for _, name := range []string{"apiVersion", "kind", "mode", "clusterCIDR", "detectLocalMode", "healthzBindAddress",
		"metricsBindAddress", "clientConnection", "hostnameOverride"} {
		if config[name] == nil {
			t.Errorf("KubeProxyConfiguration no longer has a field %s", name)
		}
		delete(config, name)
	}
	delete(d, "ClientConnectionConfiguration")
	schema["definitions"] = d
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(want.String(), string(have)); diff != "" {
		t.Errorf("%s differs from the Go types; go test ./integration/deploy -run TestChartSchema -update rewrites it (-want +have):\n%s",
			file, diff)
	}
}

// definitions are JSON schemas by the name of the Go type.
type definitions map[string]any

// schema returns the JSON schema of a type. It adds structs to the definitions; they allow no other fields.
func (d definitions) schema(typ reflect.Type) map[string]any {
	switch typ {
	case reflect.TypeFor[metav1.Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$|^0$`}
	case reflect.TypeFor[resource.Quantity]():
		return map[string]any{"type": []string{"string", "number"}, "pattern": `^[0-9]+(\.[0-9]+)?([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$`}
	case reflect.TypeFor[intstr.IntOrString]():
		return map[string]any{"type": []string{"string", "integer"}}
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return d.schema(typ.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": d.schema(typ.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": d.schema(typ.Elem())}
	case reflect.Struct:
	default: // numbers
		return map[string]any{"type": "integer"}
	}
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return map[string]any{} // the type has an encoding of its own
	}
	if d[typ.Name()] == nil {
		properties := map[string]any{}
		d[typ.Name()] = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
		d.fields(typ, properties)
	}
	return map[string]any{"$ref": "#/definitions/" + typ.Name()}
}

// fields adds the fields of a struct to properties.
func (d definitions) fields(typ reflect.Type, properties map[string]any) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-":
		case name == "" && f.Anonymous:
			d.fields(f.Type, properties)
		default:
			properties[name] = d.schema(f.Type)
		}
	}
}
