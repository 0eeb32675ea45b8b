// Package conformance runs Kubernetes' own tests of [sig-network] on a real cluster whose service proxy is nfproxy: the DaemonSet of
// deploy/nfproxy.yaml, from the image that `make image` builds.
//
// All of the cluster is on one machine, in namespaces. The control plane is that of integration/controlplane, with all controllers and
// the scheduler. Each node is a set of namespaces (network, mounts, processes, host name, IPC, cgroups) with its own containerd and
// kubelet. The nodes hang on one bridge, in a network namespace without a link to the outside, so that no packet leaves the machine:
//
//	bridge: 172.30.0.1, everything else is unreachable
//	  control plane and the tests' program: 172.30.0.2, fd00:172:30::2; as a client from outside the nodes' networks: 172.29.0.2
//	  node1: 172.30.0.11, fd00:172:30::b, pods 10.244.1.0/24, fd00:10:244:1::/64
//	  node2, node3 ...
//
// Pods hang on point-to-point links, not on a bridge: across a bridge, replies between two pods of a node would not pass the node's
// rules. No registry is reachable. The images are made from locally built programs and Debian packages, and imported under the names
// that the tests use.
//
// The first process of a node is the parent of everything else there. When it ends, the kernel ends its processes and its mounts, and
// it ends with the test. What is left are empty cgroups and files; the process that started the test removes these, and what an
// earlier one that was killed has left.
//
// The tests need root and cgroup v1. Everything here is in tests: `make conformance` runs them (docs/testing.md).
package conformance
