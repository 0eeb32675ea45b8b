package cluster

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestFaces: what monitoring and load balancers ask of a node at work, where they ask kube-proxy.
func TestHTTPEndpoints(t *testing.T) {
	const healthz, metrics = 10256, 10249
	c := New(t)
	b := c.AddBackends("web", 2)
	c.startAgent()
	answers := func(port int, path string, status int, texts ...string) {
		t.Helper()
		AwaitAnswer(t, port, path, status, texts...)
	}
	answers(healthz, "/readyz", 200, "ok")
	b.Serve(b.Addrs...)
	b.AwaitEndpoints(b.Addrs...)
	answers(healthz, "/healthz", 200, `"nodeEligible":true,"healthy":true`, `"lastUpdated"`)
	answers(healthz, "/livez", 200, `"healthy":true`)
	answers(metrics, "/healthz", 200, "ok")
	answers(metrics, "/proxyMode", 200, "nftables")
	answers(metrics, "/configz", 200, `{"kubeproxy.config.k8s.io":{`, `"clusterCIDR":"10.244.0.0/16,fd00:10:244::/48"`)
	answers(metrics, "/metrics", 200, "nfproxy_event_to_commit_seconds_count", `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`, "rest_client_requests_total")

	client := c.AddPod("default", "client", nil, "10.244.1.99")
	for range 20 {
		if _, err := ReadGreeting(t.Context(), client.Namespace, b.Frontend); err != nil {
			t.Fatal(err)
		}
	}
	answers(metrics, "/metrics", 200,
		`nfproxy_service_connections_total{kind="ClusterIP",namespace="default",port="",protocol="TCP",service="web"} 20`+"\n")

	// A node that goes away is to get nothing new, and serves what it has.
	c.taint(corev1.Taint{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule})
	answers(healthz, "/healthz", 503, `"nodeEligible":false,"healthy":true`)
	answers(healthz, "/livez", 200, `"healthy":true`)
	answers(metrics, "/metrics", 200, `kubeproxy_proxy_healthz_total{code="503"}`)
	c.taint()
	answers(healthz, "/healthz", 200, `"nodeEligible":true`)
}

// taint gives the node these taints and no others.
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
