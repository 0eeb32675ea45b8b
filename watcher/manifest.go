package watcher

import (
	"bytes"
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

	"nfproxy/render"
)

// manifest is the content of one file.
type manifest struct {
	objects  map[objectKey]object
	findings []finding
}

// finding is a problem of a document, or a remark about it.
type finding struct {
	// document is the number of the document in the file, from 1.
	document int
	// item is the place in a List, such as "items[3]", empty outside a List.
	item string
	Problem
	// bad is true if the document or item provides no object because of the problem.
	bad bool
}

// bad reports whether any document or item provides no object because of a problem.
func (m manifest) bad() bool {
	for _, f := range m.findings {
		if f.bad {
			return true
		}
	}
	return false
}

// parse reads a file of YAML or JSON documents. It is strict, as the API server is towards kubectl: an unknown or repeated
// field makes the document bad. Other documents, and other items of a List, are not affected. Of the Nodes only n is
// read, and Services are reduced for its instance.
func parse(data []byte, n render.Node) manifest {
	p := parser{node: n, manifest: manifest{objects: map[objectKey]object{}}}
	for _, text := range documents(data) {
		p.text(text)
	}
	return p.manifest
}

// parser holds the position in the file and the content up to it.
type parser struct {
	node     render.Node
	document int
	item     string
	manifest
}

func (p *parser) add(key objectKey, field, detail string, bad bool) {
	p.findings = append(p.findings, finding{
		document: p.document,
		item:     p.item,
		Problem:  Problem{Object: key.String(), Field: field, Detail: detail},
		bad:      bad,
	})
}

// text reads one YAML document or a sequence of JSON objects.
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
	p.add(objectKey{}, "", err.Error(), true)
}

// yaml reads one YAML document. A repeated field makes the whole document bad, even if it is a List: the YAML library checks
// the document as a whole.
func (p *parser) yaml(text []byte) {
	value, err := yaml.YAMLToJSONStrict(text)
	if err == nil {
		err = trailingText(text)
	}
	if err == nil {
		p.decode(value, metav1.TypeMeta{})
		return
	}
	var h header
	if value, lenient := yaml.YAMLToJSON(text); lenient == nil {
		_ = kjson.UnmarshalCaseSensitivePreserveInts(value, &h) // without a name the finding is reported without one
	}
	p.add(h.key(), repeatedField(err), strings.Join(strings.Fields(err.Error()), " "), true)
}

// repeatedField extracts the field from an error such as `line 4: key "spec" already set in map`.
func repeatedField(err error) string {
	before, _, ok := strings.Cut(err.Error(), `" already set in map`)
	if !ok {
		return ""
	}
	_, field, _ := strings.Cut(before, `key "`)
	return field
}

// header holds the fields that every object has.
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
	case serviceKind, sliceKind:
		key.namespace = namespace(key.namespace)
	case nodeKind:
		key.namespace = "" // Nodes have no namespace, even if the manifest sets one
	}
	return key
}

// decode reads one object or List. The items of a typed List, such as a ServiceList, have no kind when the API server writes
// it; outer is the kind that follows from the List.
func (p *parser) decode(value []byte, outer metav1.TypeMeta) {
	value = bytes.TrimSpace(value)
	if string(value) == "null" {
		return
	}
	if len(value) == 0 || value[0] != '{' {
		p.add(objectKey{}, "", "not an object", true)
		return
	}
	var h header
	// Fields that cannot be decoded stay empty here. The strict decoding fails on them again and reports them.
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &h); err != nil && h.Kind == "" {
		p.add(objectKey{}, "", err.Error(), true)
		return
	}
	if h.TypeMeta == (metav1.TypeMeta{}) {
		h.TypeMeta = outer
	}
	key := h.key()
	switch (metav1.TypeMeta{APIVersion: h.APIVersion, Kind: h.Kind}) {
	case typeMeta("v1", serviceKind):
		decodeInto(p, value, key, func(key objectKey, api *corev1.Service) {
			p.put(key, object{service: reduceService(api, p.node.Instance)})
		})
	case typeMeta("discovery.k8s.io/v1", sliceKind):
		decodeInto(p, value, key, func(key objectKey, api *discoveryv1.EndpointSlice) {
			p.put(key, object{slice: reduceSlice(api)})
		})
	case typeMeta("v1", nodeKind):
		decodeInto(p, value, key, p.putNode)
	case typeMeta("v1", "List"):
		p.list(value, key, metav1.TypeMeta{})
	case typeMeta("v1", "ServiceList"), typeMeta("v1", "NodeList"), typeMeta("discovery.k8s.io/v1", "EndpointSliceList"):
		p.list(value, key, typeMeta(h.APIVersion, strings.TrimSuffix(h.Kind, "List")))
	default:
		p.unread(key, h.TypeMeta)
	}
}

func typeMeta(apiVersion, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
}

// unread records an object of a kind that is not read. The finding is bad only if the object looks like one of the kinds
// that are read, in another version or spelling. Deployments and the like are common in the manifests of an application and
// must not make the file bad.
func (p *parser) unread(key objectKey, t metav1.TypeMeta) {
	switch {
	case t.Kind == "":
		p.add(key, "kind", "missing", true)
	case t.APIVersion == "":
		p.add(key, "apiVersion", "missing", true)
	case resemblesRead(t):
		p.add(key, "apiVersion", fmt.Sprintf("%s %s is not supported, only v1 Service, Node and List and "+
			"discovery.k8s.io/v1 EndpointSlice", t.APIVersion, t.Kind), true)
	default:
		p.add(key, "kind", fmt.Sprintf("%s %s is ignored", t.APIVersion, t.Kind), false)
	}
}

// resemblesRead reports whether a type is probably meant as one of the types that are read.
func resemblesRead(t metav1.TypeMeta) bool {
	group, _, named := strings.Cut(t.APIVersion, "/")
	kind := strings.ToLower(strings.TrimSuffix(t.Kind, "List"))
	if !named {
		return kind == "" || kind == "list" || kind == "service" || kind == "node" || kind == "endpointslice"
	}
	return group == discoveryv1.GroupName && kind == "endpointslice"
}

// list reads the items of a List one by one, so that a bad item does not affect the others.
func (p *parser) list(value []byte, key objectKey, inner metav1.TypeMeta) {
	if p.item != "" {
		p.add(key, "kind", "a List inside a List is not supported", true)
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

// decodeInto decodes an object of type T, checks its name and calls put with it.
func decodeInto[T any](p *parser, value []byte, key objectKey, put func(objectKey, *T)) {
	api := new(T)
	if p.strict(value, key, api) && p.validName(key) {
		put(key, api)
	}
}

// strict decodes a value. Unknown and repeated fields are errors. It reports whether there was no error.
func (p *parser) strict(value []byte, key objectKey, into any) bool {
	fieldErrs, err := kjson.UnmarshalStrict(value, into)
	if err != nil {
		p.add(key, typeErrorField(err), err.Error(), true)
		return false
	}
	for _, err := range fieldErrs {
		var field string
		if at, ok := errors.AsType[kjson.FieldError](err); ok {
			field = at.FieldPath()
		}
		p.add(key, field, err.Error(), true)
	}
	return len(fieldErrs) == 0
}

// typeErrorField extracts the field from an error such as "json: cannot unmarshal string into Go struct field
// ServicePort.spec.ports.port of type int32". The decoder's error type is not exported.
func typeErrorField(err error) string {
	_, field, _ := strings.Cut(err.Error(), "Go struct field ")
	field, _, _ = strings.Cut(field, " of type ")
	_, field, _ = strings.Cut(field, ".")
	return field
}

// validName reports whether the API server would accept an object's name and namespace. They become part of chain names and
// comments, and no API server has checked those of a manifest.
func (p *parser) validName(key objectKey) bool {
	errs := validation.IsDNS1123Subdomain(key.name)
	if len(errs) > 0 {
		p.add(key, "metadata.name", errs[0], true)
		return false
	}
	if key.kind != nodeKind {
		if errs = validation.IsDNS1123Label(key.namespace); len(errs) > 0 {
			p.add(key, "metadata.namespace", errs[0], true)
			return false
		}
	}
	return true
}

func (p *parser) put(key objectKey, o object) {
	if _, ok := p.objects[key]; ok {
		p.add(key, "metadata.name", "the file contains this object more than once, the last one is used", false)
	}
	p.objects[key] = o
}

// putNode takes this machine's Node and skips other Nodes.
func (p *parser) putNode(key objectKey, api *corev1.Node) {
	if key.name == p.node.Name {
		p.put(key, object{node: reduceNode(api)})
		return
	}
	p.findings = append(p.findings, finding{document: p.document, item: p.item, Problem: Problem{
		Object: key.String(), Field: "metadata.name", Detail: "another node", Skipped: true,
	}})
}
