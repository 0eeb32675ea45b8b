package config

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"k8s.io/kube-proxy/config/v1alpha1"
)

// TestSource: in a Pod no flag is required.
func TestSource(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	s, _, err := configured(t, "")
	if err != nil || s.Manifests+s.Kubeconfig+s.Master != "" {
		t.Errorf("%+v: %v", s, err)
	}
}

// TestEnvironment: environment variables set what their flags set, and a flag takes precedence over its variable.
func TestEnvironment(t *testing.T) {
	t.Setenv("NFPROXY_KUBECONFIG", "/etc/kubeconfig")
	t.Setenv("NFPROXY_HOSTNAME_OVERRIDE", "node-a")
	t.Setenv("NFPROXY_CONNTRACK_MIN", "7")
	t.Setenv("NFPROXY_OOM_SCORE_ADJ", "8")
	t.Setenv("NFPROXY_EXTERNAL_IPS", "none")
	t.Setenv("NFPROXY_NODEPORT_ADDRESSES", "192.0.2.0/24,2001:db8::/32")
	s, _, err := configured(t, "", "--conntrack-min=9")
	if err != nil {
		t.Fatal(err)
	}
	want := defaultSettings()
	want.Conntrack.Min, want.OOMScoreAdj, want.NodePorts = 9, new(int32(8)), NodePorts{CIDRs: prefixes(t, "192.0.2.0/24,2001:db8::/32")}
	want.Node.ExternalIPs.Only = true
	compare(t, s, want)
}

// TestEnvironmentEmpty: an empty variable does not disable a protection.
func TestEnvironmentEmpty(t *testing.T) {
	t.Setenv("NFPROXY_EXTERNAL_IPS", "")
	if _, _, err := configured(t, "", "--kubeconfig=/etc/kubeconfig"); err == nil || !strings.HasPrefix(err.Error(), "--external-ips: ") {
		t.Errorf("error %v, want one about --external-ips", err)
	}
}

// TestEveryField: each field of a KubeProxyConfiguration changes the settings, gives a warning or is reported as invalid.
func TestEveryField(t *testing.T) {
	const kubeconfig = "clientConnection: {kubeconfig: /etc/kubeconfig}\n"
	before, _, err := configured(t, header+kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := leaves(v1alpha1.KubeProxyConfiguration{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	eachField(reflect.TypeFor[v1alpha1.KubeProxyConfiguration](), nil, func(path []string, kind reflect.Type) {
		field := strings.Join(path, ".")
		if field == "kind" || field == "apiVersion" {
			return
		}
		n++
		text := header + strings.Join(path, ": {") + ": " + example(kind, defaults[field]) + strings.Repeat("}", len(path)-1) + "\n"
		if path[0] != "clientConnection" {
			text += kubeconfig
		}
		s, warnings, err := configured(t, text, "--master", "https://192.0.2.1")
		s.Master = ""
		if err == nil && !strings.Contains(fmt.Sprint(warnings), field) && reflect.DeepEqual(s, before) {
			t.Errorf("%s is ignored silently:\n%s", field, text)
		}
		if err != nil && kind.Kind() != reflect.String && strings.Contains(err.Error(), " is not of type ") {
			t.Errorf("the example has the wrong type:\n%s%v", text, err)
		}
	})
	if n < 60 {
		t.Errorf("found only %d fields", n)
	}
}

// eachField calls f for every field of an API type that has no fields itself, with its path.
func eachField(in reflect.Type, path []string, f func(path []string, kind reflect.Type)) {
	if path != nil && (in.Kind() != reflect.Struct || reflect.PointerTo(in).Implements(reflect.TypeFor[json.Unmarshaler]())) {
		f(path, in)
		return
	}
	for field := range in.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		kind := field.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if field.Anonymous && name == "" {
			eachField(kind, append([]string{}, path...), f)
		} else {
			eachField(kind, append(append([]string{}, path...), name), f)
		}
	}
}

// example returns a value of a field that is not the default.
func example(kind reflect.Type, defaultValue any) string {
	switch kind.Kind() {
	case reflect.Bool:
		return fmt.Sprint(defaultValue != true)
	case reflect.Struct:
		if strings.HasSuffix(kind.Name(), "Duration") {
			return "7s"
		}
		return "'7'" // a quantity
	case reflect.Map:
		return "{A: true}"
	case reflect.Slice:
		if kind.Elem().Kind() == reflect.String {
			return "[192.0.2.0/24]"
		}
		return "[{filePattern: a, verbosity: 1}]"
	case reflect.String:
		return "'7'"
	default:
		return "7"
	}
}

// TestDocumented: docs/configuration.md has a table row for each flag, with its variable and its field.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range options() {
		name := o.Names()[0]
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		if !documented(string(text), "`"+dashes+name, "`"+envVar(name)+"`", o.field) {
			t.Errorf("docs/configuration.md has no row with %s%s, %s and %q", dashes, name, envVar(name), o.field)
		}
	}
}

func documented(text string, flag, variable, field string) bool {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "|") && (strings.Contains(line, flag+"`") || strings.Contains(line, flag+" ")) &&
			strings.Contains(line, variable) && strings.Contains(line, field) {
			return true
		}
	}
	return false
}
