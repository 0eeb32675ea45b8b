package watcher

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// objectKey names an object.
type objectKey struct {
	kind, namespace, name string
}

// String returns the kind and the name, such as "Service default/web".
func (k objectKey) String() string {
	if k.namespace == "" {
		return strings.TrimSpace(k.kind + " " + k.name)
	}
	return k.kind + " " + k.namespace + "/" + k.name
}

// object is a reduced object: a service, a slice or a node.
type object struct {
	service *service
	slice   *slice
	node    *node
}

// finding is what is worth a line in the log about one document.
type finding struct {
	// document counts the file's documents from 1.
	document int
	// item is the place in a List, such as "items[3]", empty outside one.
	item string
	Problem
	// bad says that the document gives nothing. A finding that is not bad is a remark.
	bad bool
}

// manifest is what one file gives.
type manifest struct {
	objects  map[objectKey]object
	findings []finding
}

// bad tells whether any of the documents gives nothing because it is wrong.
func (m manifest) bad() bool {
	for _, f := range m.findings {
		if f.bad {
			return true
		}
	}
	return false
}

// parse reads a file of YAML or JSON documents. It is strict, as the API server is for kubectl: an unknown or repeated
// field makes its document bad. Other documents, and other items of a List, are read all the same.
func parse(data []byte, nodeName string) manifest {
	p := parser{node: nodeName, manifest: manifest{objects: map[objectKey]object{}}}
	for _, text := range documents(data) {
		p.text(text)
	}
	return p.manifest
}

// parser is the place in the file and what it gave up to there.
type parser struct {
	node     string
	document int
	item     string
	manifest
}

func (p *parser) note(key objectKey, field, detail string, bad bool) {
	p.findings = append(p.findings, finding{
		document: p.document,
		item:     p.item,
		Problem:  Problem{Object: key.String(), Field: field, Detail: detail},
		bad:      bad,
	})
}

// text reads one YAML document, or JSON objects one after the other.
func (p *parser) text(text []byte) {
	values, err := jsonValues(text)
	for _, value := range values {
		p.document++
		p.decode(value, metav1.TypeMeta{})
	}
	if len(values) > 0 && err == nil {
		return
	}
	p.document++
	if len(values) == 0 {
		p.yaml(text)
		return
	}
	p.note(objectKey{}, "", err.Error(), true)
}

// yaml reads one YAML document. A repeated field makes all of it bad, even a List: YAML is checked as a whole.
func (p *parser) yaml(text []byte) {
	value, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		err = noMore(text)
	}
	if err == nil {
		p.decode(value, metav1.TypeMeta{})
		return
	}
	var h header
	if value, lenient := yaml.YAMLToJSON(text); lenient == nil {
		_ = kjson.UnmarshalCaseSensitivePreserveInts(value, &h) // only to name the object, if it can be named
	}
	p.note(h.key(), repeatedField(err), strings.Join(strings.Fields(err.Error()), " "), true)
}

// repeatedField finds the field in `line 4: key "spec" already set in map`.
func repeatedField(err error) string {
	before, _, ok := strings.Cut(err.Error(), `" already set in map`)
	if !ok {
		return ""
	}
	_, field, _ := strings.Cut(before, `key "`)
	return field
}

// header is what every object begins with.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"metadata"`
}

func (h header) key() objectKey {
	key := objectKey{kind: h.Kind, namespace: h.Metadata.Namespace, name: h.Metadata.Name}
	switch h.Kind {
	case "Service", "EndpointSlice":
		key.namespace = namespace(key.namespace)
	case "Node":
		key.namespace = "" // a Node is in none, whatever it says
	}
	return key
}

func namespace(s string) string { return cmp.Or(s, corev1.NamespaceDefault) }

// decode reads one object or List. A typed List's items need no kind, the API server leaves it out: outer is what they are.
func (p *parser) decode(value []byte, outer metav1.TypeMeta) {
	value = bytes.TrimSpace(value)
	if string(value) == "null" {
		return
	}
	if len(value) == 0 || value[0] != '{' {
		p.note(objectKey{}, "", "it is not an object", true)
		return
	}
	var h header
	// What cannot be read here is left empty; the strict decoding finds it again and says so.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &h); err != nil && h.Kind == "" {
		p.note(objectKey{}, "", err.Error(), true)
		return
	}
	if h.TypeMeta == (metav1.TypeMeta{}) {
		h.TypeMeta = outer
	}
	key := h.key()
	switch (metav1.TypeMeta{APIVersion: h.APIVersion, Kind: h.Kind}) {
	case kind("v1", "Service"):
		decodeInto(p, value, key, func(key objectKey, api *corev1.Service) {
			p.take(key, object{service: reduceService(api)})
		})
	case kind("discovery.k8s.io/v1", "EndpointSlice"):
		decodeInto(p, value, key, func(key objectKey, api *discoveryv1.EndpointSlice) {
			p.take(key, object{slice: reduceSlice(api)})
		})
	case kind("v1", "Node"):
		decodeInto(p, value, key, p.takeNode)
	case kind("v1", "List"):
		p.list(value, key, metav1.TypeMeta{})
	case kind("v1", "ServiceList"), kind("v1", "NodeList"), kind("discovery.k8s.io/v1", "EndpointSliceList"):
		p.list(value, key, kind(h.APIVersion, strings.TrimSuffix(h.Kind, "List")))
	default:
		p.foreign(key, h.TypeMeta)
	}
}

func kind(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}

// foreign notes an object that is of no use here. It is bad only if it seems meant for us, in another version or
// spelling: manifests of a whole application hold Deployments and the like, which must not keep the file from being good.
func (p *parser) foreign(key objectKey, t metav1.TypeMeta) {
	switch {
	case t.Kind == "":
		p.note(key, "kind", "there is no kind", true)
	case t.APIVersion == "":
		p.note(key, "apiVersion", "there is no apiVersion", true)
	case ours(t):
		p.note(key, "apiVersion", fmt.Sprintf("%s %s is not read, only v1 Service, Node and List and "+
			"discovery.k8s.io/v1 EndpointSlice", t.APIVersion, t.Kind), true)
	default:
		p.note(key, "kind", fmt.Sprintf("%s %s is ignored", t.APIVersion, t.Kind), false)
	}
}

func ours(t metav1.TypeMeta) bool {
	group, _, named := strings.Cut(t.APIVersion, "/")
	kind := strings.ToLower(strings.TrimSuffix(t.Kind, "List"))
	if !named {
		return kind == "" || kind == "list" || kind == "service" || kind == "node" || kind == "endpointslice"
	}
	return group == discoveryv1.GroupName && kind == "endpointslice"
}

// list reads the items of a List one by one, so that a bad one costs itself alone.
func (p *parser) list(value []byte, key objectKey, inner metav1.TypeMeta) {
	if p.item != "" {
		p.note(key, "kind", "a List in a List is not read", true)
		return
	}
	var l struct {
		metav1.TypeMeta `json:",inline"`
		metav1.ListMeta `json:"metadata"`
		Items           []json.RawMessage `json:"items"`
	}
	if !p.strict(value, key, &l) {
		return
	}
	for i, item := range l.Items {
		p.item = fmt.Sprintf("items[%d]", i)
		p.decode(item, inner)
	}
	p.item = ""
}

// decodeInto decodes an object of type T, checks its name and hands it to take.
func decodeInto[T any](p *parser, value []byte, key objectKey, take func(objectKey, *T)) {
	api := new(T)
	if p.strict(value, key, api) && p.named(key) {
		take(key, api)
	}
}

// strict decodes and tells whether it worked out, with unknown and repeated fields as errors.
func (p *parser) strict(value []byte, key objectKey, into any) bool {
	wrong, err := kjson.UnmarshalStrict(value, into)
	if err != nil {
		p.note(key, typeErrorField(err), err.Error(), true)
		return false
	}
	for _, err := range wrong {
		var field string
		if at, ok := errors.AsType[kjson.FieldError](err); ok {
			field = at.FieldPath()
		}
		p.note(key, field, err.Error(), true)
	}
	return len(wrong) == 0
}

// typeErrorField finds the field in "json: cannot unmarshal string into Go struct field ServicePort.spec.ports.port of
// type int32". The decoder's error type is not exported.
func typeErrorField(err error) string {
	_, field, _ := strings.Cut(err.Error(), "Go struct field ")
	field, _, _ = strings.Cut(field, " of type ")
	_, field, _ = strings.Cut(field, ".")
	return field
}

// named tells whether an object has a name that the API server would have let in. Names end up in the names of chains
// and in comments, and nobody else checks those of manifests.
func (p *parser) named(key objectKey) bool {
	wrong := validation.IsDNS1123Subdomain(key.name)
	if len(wrong) > 0 {
		p.note(key, "metadata.name", wrong[0], true)
		return false
	}
	if key.kind != "Node" {
		if wrong = validation.IsDNS1123Label(key.namespace); len(wrong) > 0 {
			p.note(key, "metadata.namespace", wrong[0], true)
			return false
		}
	}
	return true
}

func (p *parser) take(key objectKey, o object) {
	if _, ok := p.objects[key]; ok {
		p.note(key, "metadata.name", "it is in this file already, the last one is used", false)
	}
	p.objects[key] = o
}

// takeNode takes this machine's Node. Other Nodes mean nothing here.
func (p *parser) takeNode(key objectKey, api *corev1.Node) {
	if key.name == p.node {
		p.take(key, object{node: reduceNode(api)})
		return
	}
	p.findings = append(p.findings, finding{document: p.document, item: p.item, Problem: Problem{
		Object: key.String(), Field: "metadata.name", Detail: "it is another node", Skipped: true,
	}})
}
