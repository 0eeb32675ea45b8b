package cluster

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHTTPEndpoints: health checks, metrics and configuration are served at kube-proxy's ports and paths, with the contents
// that monitoring and load balancers expect.
func TestHTTPEndpoints(t *testing.T) {
	const healthz, metrics = 10256, 10249
	c := New(t)
	b := c.AddBackends("web", 2)
	c.startAgent()
	expect := func(port int, path string, status int, texts ...string) {
		t.Helper()
		AwaitAnswer(t, port, path, status, texts...)
	}
	expect(healthz, "/readyz", 200, "ok")
	b.Serve(b.Addrs...)
	b.AwaitEndpoints(b.Addrs...)
	expect(healthz, "/healthz", 200, `"nodeEligible":true,"healthy":true`, `"lastUpdated"`)
	expect(healthz, "/livez", 200, `"healthy":true`)
	expect(metrics, "/healthz", 200, "ok")
	expect(metrics, "/proxyMode", 200, "nftables")
	expect(metrics, "/configz", 200, `{"kubeproxy.config.k8s.io":{`, `"clusterCIDR":"10.244.0.0/16,fd00:10:244::/48"`)
	expect(metrics, "/metrics", 200, "nfproxy_event_to_commit_seconds_count", `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`, "rest_client_requests_total")

	client := c.AddPod("default", "client", nil, "10.244.1.99")
	for range 20 {
		if _, err := ReadGreeting(t.Context(), client.Namespace, b.Frontend); err != nil {
			t.Fatal(err)
		}
	}
	expect(metrics, "/metrics", 200,
		`nfproxy_service_connections_total{kind="ClusterIP",namespace="default",port="",protocol="TCP",service="web"} 20`+"\n")

	// A node that is about to be removed gets no new connections from load balancers, but nfproxy on it is alive.
	c.taint(corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule})
	expect(healthz, "/healthz", 503, `"nodeEligible":false,"healthy":true`)
	expect(healthz, "/livez", 200, `"healthy":true`)
	expect(metrics, "/metrics", 200, `kubeproxy_proxy_healthz_total{code="503"}`)
	c.taint()
	expect(healthz, "/healthz", 200, `"nodeEligible":true`)
}

// taint replaces the taints of the node.
func (c *Cluster) taint(taints ...corev1.Taint) {
	c.T.Helper()
	node, err := c.CoreV1().Nodes().Get(c.T.Context(), NodeName, metav1.GetOptions{})
	if err == nil {
		node.Spec.Taints = taints
		_, err = c.CoreV1().Nodes().Update(c.T.Context(), node, metav1.UpdateOptions{})
	}
	if err != nil {
		c.T.Fatal(err)
	}
}
