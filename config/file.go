package config

import (
	"bytes"
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

// read takes a file's content: a KubeProxyConfiguration as YAML or JSON.
func (c *configuration) read(data []byte) {
	value, err := c.toJSON(data)
	if err != nil {
		c.failNamed(c.file, oneLine(err))
		return
	}
	var is metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &is); err != nil {
		c.failNamed(c.file, errors.New("it is not a "+configKind))
		return
	}
	if is.APIVersion != configAPIVersion {
		c.fail("apiVersion", fmt.Errorf("%q is not %s", is.APIVersion, configAPIVersion))
	}
	if is.Kind != configKind {
		c.fail("kind", fmt.Errorf("%q is not %s", is.Kind, configKind))
	}
	if len(c.problems) == 0 {
		c.decode(value)
	}
}

// toJSON reads a document. A repeated field is no reason to stand still: as for kube-proxy the last one counts.
func (c *configuration) toJSON(data []byte) ([]byte, error) {
	if json.Valid(data) { // not all of JSON is YAML: tabs are not
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
		c.warnNamed(c.file, "a field is there twice, the last one counts: "+oneLine(err).Error())
	}
	return value, lenient
}

// oneDocument returns an error if there is more than one: what reads YAML stops after the first without a word.
func oneDocument(data []byte) error {
	d := yamlv2.NewDecoder(bytes.NewReader(data))
	var first, second any
	if err := d.Decode(&first); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one document in it")
	}
	return nil
}

func oneLine(err error) error { return errors.New(strings.Join(strings.Fields(err.Error()), " ")) }

// decode takes the fields, and names those that are unknown and those that mean nothing here.
func (c *configuration) decode(value []byte) {
	unknown, err := kjson.UnmarshalStrict(value, &c.KubeProxyConfiguration)
	if err != nil {
		c.blame(value, err)
		return
	}
	for _, err := range unknown {
		if at, ok := errors.AsType[kjson.FieldError](err); ok {
			c.warn(at.FieldPath(), "unknown field")
		}
	}
	if err := c.nameMeaningless(); err != nil {
		c.failNamed(c.file, err)
	}
}

// blame notes which fields cannot be decoded. The decoder names the first alone, and not even that if it is a duration.
func (c *configuration) blame(value []byte, err error) {
	var whole any
	if wrong := kjson.UnmarshalCaseSensitivePreserveInts(value, &whole); wrong == nil {
		walk(nil, whole, func(path []string, leaf any) {
			if err := decodeAlone(path, leaf); err != nil {
				c.fail(strings.Join(path, "."), err)
			}
		})
	}
	if len(c.problems) == 0 {
		c.failNamed(c.file, oneLine(err))
	}
}

// walk calls f for everything in a JSON value that has nothing named inside, in the order of the names.
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

// decodeAlone decodes one field and says what is wrong with it.
func decodeAlone(path []string, leaf any) error {
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
	_, kind, ok := strings.Cut(err.Error(), " of type ")
	switch {
	case !ok:
		return err
	case strings.Contains(kind, "."):
		kind = "object" // a Go struct's name helps nobody
	}
	return fmt.Errorf("%v is no %s", leaf, kind)
}

// nameMeaningless warns of every field that is not the default and that nothing here looks at.
func (c *configuration) nameMeaningless() error {
	followed := map[string]bool{"iptables.masqueradeAll": c.Mode != modeNFTables}
	for _, o := range options() {
		followed[o.field] = true
	}
	asked, err := leaves(c.KubeProxyConfiguration)
	if err != nil {
		return err
	}
	usual, err := leaves(v1alpha1.KubeProxyConfiguration{TypeMeta: c.TypeMeta})
	if err != nil {
		return err
	}
	for _, field := range slices.Sorted(maps.Keys(asked)) {
		if !followed[field] && !same(asked[field], usual[field]) {
			c.warn(field, "has no meaning here")
		}
	}
	return nil
}

// leaves are the fields of a configuration, with defaults, that have no fields themselves, by path.
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

// same compares JSON values; an empty list is none.
func same(a, b any) bool {
	if list, ok := a.([]any); ok && len(list) == 0 && b == nil {
		return true
	}
	return reflect.DeepEqual(a, b)
}
