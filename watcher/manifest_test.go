package watcher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/render"
)

// text formats a finding: ! marks a bad one, - a skipped object.
func (f finding) text() string {
	mark := ""
	switch {
	case f.bad:
		mark = "!"
	case f.Skipped:
		mark = "-"
	}
	return strings.Join(strings.Fields(fmt.Sprintf("%s%d %s %s (%s) %s", mark, f.document, f.item, f.Object, f.Field, f.Detail)), " ")
}

func TestParse(t *testing.T) {
	t.Parallel()
	const web = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1}\n"
	tests := []struct {
		name, text string
		objects    []string
		findings   []string
	}{
		{name: "empty"},
		{name: "comments", text: "# nothing\n---\n# here\n---\n"},
		{name: "one", text: web, objects: []string{"Service default/web"}},
		{name: "leading separator and directive", text: "%YAML 1.1\n--- # first\n" + web + "...\n", objects: []string{"Service default/web"}},
		{
			name: "documents", text: "---\n" + web + "---\r\n" + strings.ReplaceAll(web, "web}", "db, namespace: prod}"),
			objects: []string{"Service default/web", "Service prod/db"},
		},
		{
			name:    "JSON objects in a row",
			text:    `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}} {"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"b"},"addressType":"IPv4","endpoints":[]}`,
			objects: []string{"EndpointSlice default/b", "Service default/a"},
		},
		{
			name:     "JSON cut short",
			text:     `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}{"apiVersion":"v1","ki`,
			objects:  []string{"Service default/a"},
			findings: []string{"!2 () unexpected EOF"},
		},
		{
			name:     "flow YAML with text behind it",
			text:     "# one\n\n{apiVersion: v1, kind: Service, metadata: {name: a}}\n{apiVersion: v1}\n",
			findings: []string{"!1 Service default/a () text follows the end of the object without a --- separator"},
		},
		{
			name: "syntax error leaves the others", text: "a: [\n---\n" + web, objects: []string{"Service default/web"},
			findings: []string{"!1 () yaml: line 1: did not find expected node content"},
		},
		{
			name:     "unknown field",
			text:     web + "---\n" + strings.ReplaceAll(web, "clusterIP:", "clusterIp:"),
			objects:  []string{"Service default/web"},
			findings: []string{`!2 Service default/web (spec.clusterIp) unknown field "spec.clusterIp"`},
		},
		{
			name:     "repeated field in YAML",
			text:     web + "spec: {}\n",
			findings: []string{`!1 Service default/web (spec) yaml: unmarshal errors: line 5: key "spec" already set in map`},
		},
		{
			name:     "repeated field in JSON",
			text:     `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"type":"ClusterIP","type":"NodePort"}}`,
			findings: []string{`!1 Service default/a (spec.type) duplicate field "spec.type"`},
		},
		{
			name: "wrong type",
			text: "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: http}]}\n",
			findings: []string{"!1 Service default/web (spec.ports.port) json: cannot unmarshal string into Go struct field " +
				"ServicePort.spec.ports.port of type int32"},
		},
		{name: "a list of values", text: "- 1\n", findings: []string{"!1 () not an object"}},
		{name: "no kind", text: "a: 1\n", findings: []string{"!1 (kind) missing"}},
		{name: "no apiVersion", text: "kind: Service\n", findings: []string{"!1 Service default/ (apiVersion) missing"}},
		{
			name: "unsupported version", text: "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n",
			findings: []string{"!1 EndpointSlice default/a (apiVersion) discovery.k8s.io/v1beta1 EndpointSlice is not supported, " +
				"only v1 Service, Node and List and discovery.k8s.io/v1 EndpointSlice"},
		},
		{
			name: "unknown kind", text: "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n---\n" + web,
			objects:  []string{"Service default/web"},
			findings: []string{"1 Deployment web (kind) apps/v1 Deployment is ignored"},
		},
		{name: "no name", text: "apiVersion: v1\nkind: Service\n", findings: []string{"!1 Service default/ (metadata.name) " +
			"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start " +
			"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is " +
			`'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`}},
		{
			name: "twice", text: web + "---\n" + web, objects: []string{"Service default/web"},
			findings: []string{"2 Service default/web (metadata.name) the file contains this object more than once, the last one is used"},
		},
		{
			name: "List with a bad item",
			text: "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n" +
				"- {apiVersion: v1, kind: Service, metadata: {name: a}}\n" +
				"- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {port: 1}}\n" +
				"- {apiVersion: v1, kind: List, items: []}\n" +
				"- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: c}, addressType: IPv4, endpoints: []}\n",
			objects: []string{"EndpointSlice default/c", "Service default/a"},
			findings: []string{
				`!1 items[1] Service default/b (spec.port) unknown field "spec.port"`,
				"!1 items[2] List (kind) a List inside a List is not supported",
			},
		},
		{
			name: "typed lists", text: "apiVersion: v1\nkind: ServiceList\nitems: [{metadata: {name: a}}]\n---\n" +
				"apiVersion: discovery.k8s.io/v1\nkind: EndpointSliceList\nitems: [{metadata: {name: b}, addressType: IPv4, endpoints: []}]\n---\n" +
				"apiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: other}}]\n",
			objects:  []string{"EndpointSlice default/b", "Service default/a"},
			findings: []string{"-3 items[0] Node other (metadata.name) another node"},
		},
		{
			name: "List with an unknown field", text: "apiVersion: v1\nkind: List\nitem: []\n",
			findings: []string{`!1 List (item) unknown field "item"`},
		},
		{
			name:    "Node",
			text:    "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: Hostname, address: n1}]}\n",
			objects: []string{"Node n1"},
		},
		{
			name:     "Node twice, and a namespace, which has no effect",
			text:     "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n1, namespace: a}\n",
			objects:  []string{"Node n1"},
			findings: []string{"2 Node n1 (metadata.name) the file contains this object more than once, the last one is used"},
		},
		{
			name: "Node with an unknown field", text: "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCidr: ''}\n",
			findings: []string{`!1 Node n1 (spec.podCidr) unknown field "spec.podCidr"`},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := parse([]byte(tt.text), render.Node{Name: "n1"})
			var objects, findings []string
			for key := range maps.Keys(got.objects) {
				objects = append(objects, key.String())
			}
			slices.Sort(objects)
			for _, f := range got.findings {
				findings = append(findings, f.text())
			}
			if diff := cmp.Diff(tt.objects, objects, compare); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.findings, findings, compare); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIPs: [10.96.0.1, 'fd00::1']\n  ports: [{name: a, port: 80}]\n",
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n" +
			"ports: [{name: a, port: 8080}, {}]\nendpoints: [{addresses: [10.1.0.1], nodeName: n, conditions: {ready: false}}, {addresses: []}, {}]\n",
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Node, metadata: {name: n}}, null, 1, []]\n",
		`{"apiVersion":"v1","kind":"ServiceList","items":[{"metadata":{"name":"a"},"spec":{"clusterIP":"None"}},{}]}{"a":`,
		fullYAML,
		nodeYAML("n", "z", "192.0.2.1", "fd00::1"),
		"a: &a [*a]\n---\n{a: 1}\n{\n--- |\n...\n%",
		"kind: 1\nmetadata: x\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parse(data, render.Node{Name: "n"})
		for _, o := range m.objects {
			if o.service == nil {
				continue
			}
			var from []*slice
			for key, other := range m.objects {
				if other.slice != nil && key.namespace == o.service.Namespace {
					from = append(from, other.slice)
				}
			}
			joined := join(render.Node{}, o.service, from)
			slices.Reverse(from)
			if again := join(render.Node{}, o.service, from); !equal(joined, again) {
				t.Errorf("the result depends on the order of the slices:\n%v\n%v", joined, again)
			}
		}
	})
}
