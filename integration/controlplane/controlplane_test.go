//go:build linux

package controlplane_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// cluster is a control plane on a node that has one pod.
type cluster struct {
	*controlplane.ControlPlane
	node *sandbox.Namespace
	pod  *sandbox.Pod
	*kubernetes.Clientset
}

var (
	nodeAddrs = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
	podAddrs  = []netip.Addr{netip.MustParseAddr("10.244.0.53"), netip.MustParseAddr("fd00:10:244::53")}
)

func newCluster(t *testing.T) *cluster {
	t.Helper()
	node, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	network, err := sandbox.NewNetwork(node, nodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { network.Close() })
	pod, err := network.AddPod("dns", podAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c := controlplane.Start(t, node, nodeAddrs...)
	logDuration(t, "etcd and kube-apiserver are ready", begin)
	return &cluster{c, node, pod, clientset(t, c.AdminConfig())}
}

func clientset(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

// logDuration logs how long something took since begin.
func logDuration(t *testing.T, what string, begin time.Time) {
	t.Helper()
	t.Logf("%s after %v", what, time.Since(begin).Round(time.Millisecond))
}

// TestControlPlane: the control plane has cluster IPs, permissions, EndpointSlices and DNS, and survives a restart of the API
// server. It is one test, because a start takes seconds.
func TestControlPlane(t *testing.T) {
	c := newCluster(t)
	web := c.createService(t, "web")
	if families := len(web.Spec.ClusterIPs); families != 2 {
		t.Errorf("Service web has cluster IPs %v, want one of each family", web.Spec.ClusterIPs)
	}
	c.checkServiceAccount(t)
	c.checkRestart(t, web)
	c.checkEndpointSlices(t)
	c.checkDNS(t, web)
}

// createService creates a dual-stack Service that selects app=NAME.
func (c *cluster) createService(t *testing.T, name string) *core.Service {
	t.Helper()
	policy := core.IPFamilyPolicyRequireDualStack
	service, err := c.CoreV1().Services("default").Create(t.Context(), &core.Service{
		ObjectMeta: meta.ObjectMeta{Name: name},
		Spec: core.ServiceSpec{
			IPFamilyPolicy: &policy,
			Selector:       map[string]string{"app": name},
			Ports:          []core.ServicePort{{Port: 80}},
		},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// checkServiceAccount: a service account has the permissions of its role. The role is not aggregated, because no controller runs
// that would complete it.
func (c *cluster) checkServiceAccount(t *testing.T) {
	t.Helper()
	account := clientset(t, c.ServiceAccountConfig("default", "reader"))
	_, err := account.CoreV1().Services("default").List(t.Context(), meta.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a service account without a role lists Services: got error %v, want Forbidden", err)
	}
	_, err = c.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbac.ClusterRoleBinding{
		ObjectMeta: meta.ObjectMeta{Name: "reader"},
		Subjects:   []rbac.Subject{{Kind: rbac.ServiceAccountKind, Namespace: "default", Name: "reader"}},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the service account lists Services", func(ctx context.Context) (bool, error) {
		_, err := account.CoreV1().Services("default").List(ctx, meta.ListOptions{})
		return err == nil, err
	})
}

// checkRestart: a stopped API server does not answer; after its restart the objects are unchanged.
func (c *cluster) checkRestart(t *testing.T, want *core.Service) {
	t.Helper()
	begin := time.Now()
	c.StopAPIServer()
	logDuration(t, "kube-apiserver has stopped", begin)
	if _, err := c.CoreV1().Services("default").Get(t.Context(), want.Name, meta.GetOptions{}); err == nil {
		t.Error("the API server answers although it is stopped")
	}
	begin = time.Now()
	c.StartAPIServer()
	logDuration(t, "kube-apiserver is ready again", begin)
	got, err := c.CoreV1().Services("default").Get(t.Context(), want.Name, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != want.UID || !slices.Equal(got.Spec.ClusterIPs, want.Spec.ClusterIPs) {
		t.Errorf("after a restart Service %s has UID %s and cluster IPs %v, want %s and %v",
			want.Name, got.UID, got.Spec.ClusterIPs, want.UID, want.Spec.ClusterIPs)
	}
}

// checkEndpointSlices: a Pod that a Service selects becomes an endpoint in both families.
func (c *cluster) checkEndpointSlices(t *testing.T) {
	t.Helper()
	begin := time.Now()
	c.StartControllerManager()
	logDuration(t, "kube-controller-manager is ready", begin)
	_, err := c.CoreV1().Nodes().Create(t.Context(), &core.Node{ObjectMeta: meta.ObjectMeta{Name: "node-a"}}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.createPod(t, "web", podAddrs...)
	eventually(t, "the Pod is a ready endpoint", func(ctx context.Context) (bool, error) {
		slices, err := c.DiscoveryV1().EndpointSlices("default").List(ctx, meta.ListOptions{LabelSelector: discovery.LabelServiceName + "=web"})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, slice := range slices.Items {
			for _, e := range slice.Endpoints {
				if *e.Conditions.Ready && *e.NodeName == "node-a" {
					ready++
				}
			}
		}
		return ready == len(podAddrs), nil
	})
}

// createPod creates a Pod app=NAME on node-a and reports it ready at these addresses, as a kubelet does.
func (c *cluster) createPod(t *testing.T, name string, addrs ...netip.Addr) {
	t.Helper()
	pods := c.CoreV1().Pods("default")
	pod, err := pods.Create(t.Context(), &core.Pod{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       core.PodSpec{NodeName: "node-a", Containers: []core.Container{{Name: "main", Image: "none"}}},
	}, meta.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Status = core.PodStatus{
		Phase:      core.PodRunning,
		PodIP:      addrs[0].String(),
		Conditions: []core.PodCondition{{Type: core.PodReady, Status: core.ConditionTrue}},
	}
	for _, addr := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, core.PodIP{IP: addr.String()})
	}
	if _, err := pods.UpdateStatus(t.Context(), pod, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// checkDNS: CoreDNS in the pod answers the node and the pod itself, in both families, over UDP and TCP.
func (c *cluster) checkDNS(t *testing.T, service *core.Service) {
	t.Helper()
	begin := time.Now()
	c.StartCoreDNS(c.pod.Namespace, podAddrs...)
	logDuration(t, "CoreDNS answers", begin)
	for _, from := range []*sandbox.Namespace{c.node, c.pod.Namespace} {
		for _, server := range podAddrs {
			for _, network := range []string{"udp", "tcp"} {
				resolver := controlplane.Resolver(from, network, netip.AddrPortFrom(server, 53))
				got, err := resolver.LookupHost(t.Context(), "web.default.svc.cluster.local.")
				slices.Sort(got)
				if want := slices.Sorted(slices.Values(service.Spec.ClusterIPs)); err != nil || !slices.Equal(got, want) {
					t.Errorf("DNS over %s at %s returned %v, %v, want %v", network, server, got, err, want)
				}
			}
		}
	}
}

// eventually calls a function until it returns true, and fails the test if it does not within 30 seconds.
func eventually(t *testing.T, what string, holds func(context.Context) (bool, error)) {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		ok, err := holds(ctx)
		if ok {
			logDuration(t, what, begin)
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("timed out after %v waiting until %s: %v", time.Since(begin), what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
