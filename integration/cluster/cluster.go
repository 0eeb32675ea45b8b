// Package cluster tests nfproxy on a real Kubernetes API server, and is the library with which other tests do so: it starts a
// cluster of one node, nfproxy and kube-proxy as processes, pods that serve, and clients that connect.
//
// Only tests may import this package; their TestMain must call Main.
package cluster

import (
	"bytes"
	"net/netip"
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/controlplane"

	"nfproxy/sandbox"
)

// Cluster is a Kubernetes control plane and one node, both in the network namespace of the tests. There is no kubelet: a
// test adds each Pod with AddPod.
type Cluster struct {
	*controlplane.ControlPlane
	*kubernetes.Clientset
	T       testing.TB              // the test, which fails if a method fails
	Network *sandbox.Network        // the node and its pods
	pods    map[string]*sandbox.Pod // by name
}

// NodeName is the name of the node on which the tests run nfproxy.
const NodeName = "node-a"

// NodeAddrs are the addresses of that node, IPv4 first. The API server serves at both.
var NodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}

// New starts a cluster with one registered node and applies deploy/rbac.yaml. It ends with the test.
func New(t testing.TB) *Cluster {
	t.Helper()
	node, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	network, err := sandbox.NewNetwork(node, NodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := Command(t, "cleanup").CombinedOutput(); err != nil { // by then no agent runs any more
			t.Errorf("%v: %s", err, out)
		}
		if err := network.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &Cluster{ControlPlane: controlplane.Start(t, node, NodeAddrs...), T: t, Network: network, pods: map[string]*sandbox.Pod{}}
	if c.Clientset, err = kubernetes.NewForConfig(c.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	c.applyRBAC()
	c.AddNode(NodeName, NodeAddrs...)
	return c
}

// applyRBAC creates the objects of deploy/rbac.yaml.
func (c *Cluster) applyRBAC() {
	c.T.Helper()
	data, err := os.ReadFile("deploy/rbac.yaml")
	if err != nil {
		c.T.Fatal(err)
	}
	documents := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	var account corev1.ServiceAccount
	var role rbacv1.ClusterRole
	var binding rbacv1.ClusterRoleBinding
	for _, into := range []any{&account, &role, &binding} {
		if err := documents.Decode(into); err != nil {
			c.T.Fatal(err)
		}
	}
	ctx, options := c.T.Context(), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	_, err = c.CoreV1().ServiceAccounts(account.Namespace).Create(ctx, &account, options)
	if err == nil {
		_, err = c.RbacV1().ClusterRoles().Create(ctx, &role, options)
	}
	if err == nil {
		_, err = c.RbacV1().ClusterRoleBindings().Create(ctx, &binding, options)
	}
	if err != nil {
		c.T.Fatal(err)
	}
}

// AddNode registers a node with these internal addresses.
func (c *Cluster) AddNode(name string, addrs ...netip.Addr) {
	c.T.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
	for _, addr := range addrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	if _, err := c.CoreV1().Nodes().Create(c.T.Context(), node, metav1.CreateOptions{}); err != nil { // stores the status as well
		c.T.Fatal(err)
	}
}

// AddPod adds a pod with these addresses to the node's network, as a kubelet does. If labels is not nil, it also creates the
// Pod object on NodeName and reports it ready.
func (c *Cluster) AddPod(namespace, name string, labels map[string]string, addrs ...string) *sandbox.Pod {
	c.T.Helper()
	var all []netip.Addr
	for _, a := range addrs {
		all = append(all, netip.MustParseAddr(a))
	}
	pod, err := c.Network.AddPod(name, all...)
	if err != nil {
		c.T.Fatal(err)
	}
	c.pods[name] = pod
	if labels == nil {
		return pod
	}
	object, err := c.CoreV1().Pods(namespace).Create(c.T.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: NodeName, Containers: []corev1.Container{{Name: "c", Image: "none"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	object.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: addrs[0],
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
	for _, a := range addrs {
		object.Status.PodIPs = append(object.Status.PodIPs, corev1.PodIP{IP: a})
	}
	if _, err := c.CoreV1().Pods(namespace).UpdateStatus(c.T.Context(), object, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
	return pod
}
