//go:build linux

// Package controlplane runs a real Kubernetes control plane for a test: etcd
// and kube-apiserver in a network namespace of package sandbox and, if the test
// asks for them, kube-controller-manager with its EndpointSlice controllers and
// CoreDNS.
//
// The programs are those that `make controlplane` builds. A test without them
// fails. They listen in the namespaces they are given and nowhere else, keep
// their files in the test's temporary directory and end with the test, or with
// the process if that dies. What they logged is printed if the test fails.
//
// There are no kubelets: a Node or Pod is what the test writes to the API.
// Only tests import this package, and their TestMain runs them under
// sandbox.Main.
package controlplane
