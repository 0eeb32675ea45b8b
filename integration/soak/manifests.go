//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// manifests is a directory that nfproxy follows. A file is written elsewhere on the same file system and renamed into the
// directory, so that nfproxy never reads a part of it.
type manifests struct{ dir, staging string }

func newManifests(parent string) (manifests, error) {
	m := manifests{dir: filepath.Join(parent, "manifests"), staging: filepath.Join(parent, "staging")}
	for _, dir := range []string{m.dir, m.staging} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return m, err
		}
	}
	return m, m.writeNode()
}

func (m manifests) path(s service) string { return filepath.Join(m.dir, s.name()+".json") }

// write creates or replaces a Service and its EndpointSlices. The endpoints are positions in the Service's pool.
func (m manifests) write(s service, endpoints []int) error {
	objects := []any{serviceObject(s), sliceObject(s, 0, endpoints)}
	if s.dualStack() {
		objects = append(objects, sliceObject(s, 1, endpoints))
	}
	return m.put(m.path(s), objects...)
}

// remove deletes a Service and its EndpointSlices.
func (m manifests) remove(s service) error { return os.Remove(m.path(s)) }

func (m manifests) writeNode() error {
	node := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	for _, addr := range nodeAddrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	return m.put(filepath.Join(m.dir, "node.json"), node)
}

func (m manifests) put(path string, objects ...any) error {
	var text []byte
	for _, o := range objects {
		one, err := json.Marshal(o)
		if err != nil {
			return err
		}
		text = append(append(text, one...), '\n')
	}
	staged := filepath.Join(m.staging, filepath.Base(path))
	if err := os.WriteFile(staged, text, 0o644); err != nil {
		return err
	}
	return os.Rename(staged, path)
}

func serviceObject(s service) *corev1.Service {
	object := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: s.name()},
		Spec: corev1.ServiceSpec{
			ClusterIP: s.addr(0).String(), ClusterIPs: []string{s.addr(0).String()},
			Ports: []corev1.ServicePort{{Name: "main", Protocol: protocol(s), Port: servicePort}},
		},
	}
	if s.dualStack() {
		object.Spec.ClusterIPs = append(object.Spec.ClusterIPs, s.addr(1).String())
	}
	if s.affinity() {
		object.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		timeout := int32(affinityTimeout)
		object.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}
	return object
}

func sliceObject(s service, family int, endpoints []int) *discoveryv1.EndpointSlice {
	port, portName, portProtocol, elsewhere := int32(backendPort), "main", protocol(s), "node-b"
	object := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("%s-%d", s.name(), family),
			Labels:      map[string]string{discoveryv1.LabelServiceName: s.name()},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}},
		AddressType: [...]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}[family],
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &portProtocol}},
	}
	for _, position := range endpoints {
		object.Endpoints = append(object.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{backendAddr(s.backend(position), family).String()}, NodeName: &elsewhere})
	}
	return object
}

func protocol(s service) corev1.Protocol {
	if s.udp() {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}
