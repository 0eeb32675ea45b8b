package demo

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

// service is a manifest of docs/demo: a Service with one port and its EndpointSlice.
type service struct {
	file   string
	object corev1.Service
	slice  discoveryv1.EndpointSlice
}

// readServices reads the manifests in dir, in order of their file names.
func readServices(dir string) ([]*service, error) {
	files, err := fs.Glob(os.DirFS(dir), "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*service
	for _, file := range files {
		s := &service{file: filepath.Join(dir, file)}
		if err := s.read(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// read reads the manifest.
func (s *service) read() error {
	text, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), len(text))
	for _, into := range []any{&s.object, &s.slice} {
		if err := documents.Decode(into); err != nil {
			return err
		}
	}
	return nil
}

// write replaces the manifest atomically: nfproxy reads either the old or the new content.
func (s *service) write() error {
	object, err := sigsyaml.Marshal(s.object)
	if err != nil {
		return err
	}
	slice, err := sigsyaml.Marshal(s.slice)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "%s---\n%s", object, slice)
	if err := os.WriteFile(s.file+".tmp", text, 0o644); err != nil {
		return err
	}
	return os.Rename(s.file+".tmp", s.file)
}

// name returns "namespace/name".
func (s *service) name() string { return s.object.Namespace + "/" + s.object.Name }

// frontend returns the cluster IP and port of the Service.
func (s *service) frontend() string {
	return fmt.Sprintf("%s:%d", s.object.Spec.ClusterIP, s.object.Spec.Ports[0].Port)
}

// endpoints returns the addresses of the Service's endpoints.
func (s *service) endpoints() []string {
	var addrs []string
	for _, e := range s.slice.Endpoints {
		addrs = append(addrs, e.Addresses...)
	}
	return addrs
}

// at returns the address and port at which a backend of the Service listens.
func (s *service) at(backend string) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(backend)
	return netip.AddrPortFrom(addr, uint16(*s.slice.Ports[0].Port)), err
}

// add adds an endpoint, a copy of the first with another address.
func (s *service) add(backend string) {
	e := s.slice.Endpoints[0].DeepCopy()
	e.Addresses = []string{backend}
	s.slice.Endpoints = append(s.slice.Endpoints, *e)
}

// replace replaces the address of an endpoint.
func (s *service) replace(old, backend string) {
	for i, e := range s.slice.Endpoints {
		if e.Addresses[0] == old {
			s.slice.Endpoints[i].Addresses = []string{backend}
		}
	}
}
