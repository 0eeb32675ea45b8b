package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

const (
	configKind       = "KubeProxyConfiguration"
	configAPIVersion = "kubeproxy.config.k8s.io/v1alpha1"
)

// read decodes a KubeProxyConfiguration in YAML or JSON.
func (c *configuration) read(data []byte) {
	value, err := c.toJSON(data)
	if err != nil {
		c.failAt(c.file, oneLine(err))
		return
	}
	var meta metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &meta); err != nil {
		c.failAt(c.file, errors.New("not a "+configKind))
		return
	}
	if meta.APIVersion != configAPIVersion {
		c.fail("apiVersion", fmt.Errorf("%q is not %s", meta.APIVersion, configAPIVersion))
	}
	if meta.Kind != configKind {
		c.fail("kind", fmt.Errorf("%q is not %s", meta.Kind, configKind))
	}
	if len(c.problems) == 0 {
		c.decode(value)
	}
}

// toJSON converts a document to JSON. A repeated field gives a warning, and its last value is used, as in kube-proxy.
func (c *configuration) toJSON(data []byte) ([]byte, error) {
	if json.Valid(data) { // JSON with tabs is not valid YAML
		return data, nil
	}
	if err := oneDocument(data); err != nil {
		return nil, err
	}
	value, err := yaml.YAMLToJSONStrict(data)
	if err == nil {
		return value, nil
	}
	value, lenient := yaml.YAMLToJSON(data)
	if lenient == nil {
		c.warnAt(c.file, "repeated field, the last value is used: "+oneLine(err).Error())
	}
	return value, lenient
}

// oneDocument returns an error if a file contains more than one YAML document. The YAML library would silently ignore all
// but the first.
func oneDocument(data []byte) error {
	d := yamlv2.NewDecoder(bytes.NewReader(data))
	var first, second any
	if err := d.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document")
	}
	return nil
}

// oneLine returns an error with the same text in one line.
func oneLine(err error) error { return errors.New(strings.Join(strings.Fields(err.Error()), " ")) }

// decode decodes the fields. Unknown fields and fields without effect give warnings.
func (c *configuration) decode(value []byte) {
	unknown, err := kjson.UnmarshalStrict(value, &c.KubeProxyConfiguration)
	if err != nil {
		c.failFields(value, err)
		return
	}
	for _, err := range unknown {
		if at, ok := errors.AsType[kjson.FieldError](err); ok {
			c.warn(cmp.Or(at.FieldPath(), `""`), "unknown field")
		}
	}
	if err := c.warnWithoutEffect(); err != nil {
		c.failAt(c.file, err)
	}
}

// failFields records all fields that cannot be decoded. The decoder's error names only the first one, and no field at all if
// it is a duration.
func (c *configuration) failFields(value []byte, err error) {
	var whole any
	if kjson.UnmarshalCaseSensitivePreserveInts(value, &whole) == nil {
		walk(nil, whole, func(path []string, leaf any) {
			if err := decodeField(path, leaf); err != nil {
				c.fail(strings.Join(path, "."), err)
			}
		})
	}
	if len(c.problems) == 0 {
		c.failAt(c.file, oneLine(err))
	}
}

// walk calls f for each field of a JSON value that is not itself an object with fields, in the order of the names.
func walk(path []string, value any, f func(path []string, leaf any)) {
	fields, ok := value.(map[string]any)
	if !ok || len(fields) == 0 {
		f(path, value)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		walk(append(slices.Clip(path), name), fields[name], f)
	}
}

// decodeField returns an error if a KubeProxyConfiguration with this field alone cannot be decoded.
func decodeField(path []string, leaf any) error {
	document := leaf
	for _, name := range slices.Backward(path) {
		document = map[string]any{name: document}
	}
	text, err := json.Marshal(document)
	if err != nil {
		return err
	}
	if _, err = kjson.UnmarshalStrict(text, new(v1alpha1.KubeProxyConfiguration)); err == nil {
		return nil
	}
	wrong, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	kind := wrong.Type.String()
	switch {
	case wrong.Type.Kind() == reflect.Struct:
		kind = "object"
	case wrong.Type.PkgPath() != "": // the name of a Go type means nothing to users
		kind = wrong.Type.Kind().String()
	}
	return fmt.Errorf("%v is not of type %s", leaf, kind)
}

// warnWithoutEffect warns of every field that nfproxy does not read and whose value is not the default. checkFeatureGates
// checks the feature gates.
func (c *configuration) warnWithoutEffect() error {
	read := map[string]bool{"iptables.masqueradeAll": c.Mode != modeNFTables}
	for _, o := range options() {
		read[o.field] = true
	}
	values, err := leaves(c.KubeProxyConfiguration)
	if err != nil {
		return err
	}
	defaults, err := leaves(v1alpha1.KubeProxyConfiguration{TypeMeta: c.TypeMeta})
	if err != nil {
		return err
	}
	for _, field := range slices.Sorted(maps.Keys(values)) {
		if !read[field] && !strings.HasPrefix(field, gatesField+".") && !equalJSON(values[field], defaults[field]) {
			c.warn(field, "has no effect")
		}
	}
	return nil
}

// leaves returns the fields of a configuration with defaults that are not themselves objects, by path.
func leaves(k v1alpha1.KubeProxyConfiguration) (map[string]any, error) {
	setDefaults(&k)
	text, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	var whole any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	all := map[string]any{}
	walk(nil, whole, func(path []string, leaf any) { all[strings.Join(path, ".")] = leaf })
	return all, nil
}

// equalJSON reports whether two JSON values are equal. An empty list equals null.
func equalJSON(a, b any) bool {
	if list, ok := a.([]any); ok && len(list) == 0 && b == nil {
		return true
	}
	return reflect.DeepEqual(a, b)
}
