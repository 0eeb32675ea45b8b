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

// TestChartSchema: the definitions in the chart's schema are the types of Kubernetes, so that no field of them is misspelt;
// -update rewrites them.
func TestChartSchema(t *testing.T) {
	const file = chart + "/values.schema.json"
	is, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(is, &schema); err != nil {
		t.Fatal(err)
	}
	d := definitions{}
	for _, typ := range []reflect.Type{reflect.TypeFor[corev1.LocalObjectReference](), reflect.TypeFor[corev1.EnvVar](),
		reflect.TypeFor[corev1.ResourceRequirements](), reflect.TypeFor[corev1.Toleration](), reflect.TypeFor[corev1.Affinity](),
		reflect.TypeFor[appsv1.DaemonSetUpdateStrategy](), reflect.TypeFor[v1alpha1.KubeProxyConfiguration]()} {
		d.schema(typ)
	}
	// What has a value of its own, or is not for anybody to change.
	config := d["KubeProxyConfiguration"].(map[string]any)["properties"].(map[string]any)
	for _, name := range []string{"apiVersion", "kind", "mode", "clusterCIDR", "detectLocalMode", "healthzBindAddress",
		"metricsBindAddress", "clientConnection", "hostnameOverride"} {
		if config[name] == nil {
			t.Errorf("KubeProxyConfiguration has no %s any more", name)
		}
		delete(config, name)
	}
	delete(d, "ClientConnectionConfiguration")
	schema["definitions"] = d
	var should bytes.Buffer
	e := json.NewEncoder(&should)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, should.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(string(is), should.String()); diff != "" {
		t.Errorf("%s is not what the types say, go test -run TestChartSchema -update . rewrites it (-is +should be):\n%s", file, diff)
	}
}

// definitions are JSON schemas by the names of types.
type definitions map[string]any

// schema returns what the JSON of a type looks like. Structs are defined, and have no fields but their own.
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
	default: // the numbers
		return map[string]any{"type": "integer"}
	}
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return map[string]any{} // what only its own reader knows
	}
	if d[typ.Name()] == nil {
		properties := map[string]any{}
		d[typ.Name()] = map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
		d.fields(typ, properties)
	}
	return map[string]any{"$ref": "#/definitions/" + typ.Name()}
}

// fields adds a struct's.
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
