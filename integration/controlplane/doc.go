//go:build linux

// Package controlplane runs a real Kubernetes control plane for a test: etcd
// and kube-apiserver in a network namespace of package sandbox and, if the test
// asks for them, kube-controller-manager with its EndpointSlice controllers and
// CoreDNS.
//
// `make controlplane` builds the programs; a test fails if one is missing. They
// listen only in the namespaces that the test gives them, keep their files in
// the test's temporary directory and end with the test or with its process. If
// the test fails, the ends of their logs are printed.
//
// There is no kubelet: the test creates Nodes and Pods and sets their status.
// Tests with kubelets of their own call StartForKubelets.
// Only tests may import this package; their TestMain must run them under
// sandbox.Main.
package controlplane
