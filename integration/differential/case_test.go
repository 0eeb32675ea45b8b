package differential

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	writer "sigs.k8s.io/yaml"
)

// testCase is what both proxies are given: a configuration, and one state of the cluster after the other.
//
// As text it is a txtar archive with the file config.yaml, a KubeProxyConfiguration, and a file NUMBER.yaml with all objects of
// each state. What the runner sets itself, such as the kubeconfig, is not in the file.
type testCase struct {
	config string
	states []state
}

// state is all objects of a cluster that a proxy reads.
type state struct {
	node     *corev1.Node // nil if there is none
	cidrs    []*networkingv1.ServiceCIDR
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

// objects returns the objects of a state.
func (s state) objects() []runtime.Object {
	var all []runtime.Object
	if s.node != nil {
		all = append(all, s.node)
	}
	for _, c := range s.cidrs {
		all = append(all, c)
	}
	for _, v := range s.services {
		all = append(all, v)
	}
	for _, e := range s.slices {
		all = append(all, e)
	}
	return all
}

// slicesOf returns the EndpointSlices of a Service.
func (s state) slicesOf(service *corev1.Service) []*discoveryv1.EndpointSlice {
	var of []*discoveryv1.EndpointSlice
	for _, e := range s.slices {
		if e.Namespace == service.Namespace && e.Labels[discoveryv1.LabelServiceName] == service.Name {
			of = append(of, e)
		}
	}
	return of
}

// format returns the case as text.
func (c testCase) format(comment string) ([]byte, error) {
	archive := &txtar.Archive{Comment: []byte(comment), Files: []txtar.File{{Name: "config.yaml", Data: []byte(c.config)}}}
	for i, s := range c.states {
		var text bytes.Buffer
		for j, o := range s.objects() {
			if j > 0 {
				text.WriteString("---\n")
			}
			data, err := manifest(o)
			if err != nil {
				return nil, err
			}
			text.Write(data)
		}
		archive.Files = append(archive.Files, txtar.File{Name: fmt.Sprintf("%d.yaml", i), Data: text.Bytes()})
	}
	return txtar.Format(archive), nil
}

// manifest returns an object as a user would write it: without empty fields.
func manifest(o runtime.Object) ([]byte, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, err
	}
	if status, ok := fields["status"].(map[string]any); ok {
		delete(status, "daemonEndpoints")
		delete(status, "nodeInfo")
	}
	prune(fields)
	return writer.Marshal(fields)
}

// prune removes empty fields.
func prune(fields map[string]any) {
	for name, value := range fields {
		empty := value == nil || value == ""
		switch value := value.(type) {
		case map[string]any:
			prune(value)
			empty = len(value) == 0
		case []any:
			empty = len(value) == 0
			for _, item := range value {
				if m, ok := item.(map[string]any); ok {
					prune(m)
				}
			}
		}
		if empty {
			delete(fields, name)
		}
	}
}

// GoString keeps what rapid prints short: the test prints the case as text.
func (c testCase) GoString() string { return fmt.Sprintf("%d states", len(c.states)) }

// parseCase is the inverse of format.
func parseCase(data []byte) (testCase, error) {
	var c testCase
	archive := txtar.Parse(data)
	for _, file := range archive.Files {
		if file.Name == "config.yaml" {
			c.config = string(file.Data)
			continue
		}
		if want := fmt.Sprintf("%d.yaml", len(c.states)); file.Name != want {
			return c, fmt.Errorf("file %s: want %s", file.Name, want)
		}
		s, err := parseState(file.Data)
		if err != nil {
			return c, fmt.Errorf("file %s: %w", file.Name, err)
		}
		c.states = append(c.states, s)
	}
	if len(c.states) == 0 {
		return c, errors.New("no file 0.yaml")
	}
	return c, nil
}

func parseState(data []byte) (state, error) {
	var s state
	for documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			return s, err
		}
		switch o := object.(type) {
		case *corev1.Node:
			s.node = o
		case *networkingv1.ServiceCIDR:
			s.cidrs = append(s.cidrs, o)
		case *corev1.Service:
			s.services = append(s.services, o)
		case *discoveryv1.EndpointSlice:
			s.slices = append(s.slices, o)
		default:
			return s, fmt.Errorf("no proxy reads %T", o)
		}
	}
}

// clone returns a copy of the state that shares no object with it.
func (s state) clone() state {
	c := state{cidrs: slices.Clone(s.cidrs), services: slices.Clone(s.services), slices: slices.Clone(s.slices)}
	if s.node != nil {
		c.node = s.node.DeepCopy()
	}
	for i := range c.cidrs {
		c.cidrs[i] = c.cidrs[i].DeepCopy()
	}
	for i := range c.services {
		c.services[i] = c.services[i].DeepCopy()
	}
	for i := range c.slices {
		c.slices[i] = c.slices[i].DeepCopy()
	}
	return c
}

// meta returns the metadata of an object in the namespace of all tests.
func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }
