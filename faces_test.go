package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fetch returns the status and the body of an answer on this machine.
func fetch(port int, path string) (int, string) { return fetchAt("127.0.0.1", port, path) }

func fetchAt(host string, port int, path string) (int, string) {
	answer, err := http.Get(fmt.Sprintf("http://%s:%d%s", host, port, path))
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(body)
}

// answers waits until a port of this machine answers so, with all these texts.
func answers(t testing.TB, port int, path string, status int, texts ...string) {
	t.Helper()
	eventuallyTrue(t, fmt.Sprintf("port %d%s answers %d with %q", port, path, status, texts), func() (bool, string) {
		got, body := fetch(port, path)
		for _, text := range texts {
			if !strings.Contains(body, text) {
				return false, fmt.Sprintf("%d, no %q in\n%s", got, text, body)
			}
		}
		return got == status, fmt.Sprint(got, body)
	})
}

// TestFaces: what monitoring and load balancers ask of a node at work, where they ask kube-proxy.
func TestFaces(t *testing.T) {
	const healthz, metrics = 10256, 10249
	c := newTestCluster(t)
	b := c.addBackends("web", 2)
	c.startAgent()
	answers := func(port int, path string, status int, texts ...string) {
		t.Helper()
		answers(t, port, path, status, texts...)
	}
	answers(healthz, "/readyz", 200, "ok")
	b.serve(b.addrs...)
	b.programmed(b.addrs...)
	answers(healthz, "/healthz", 200, `"nodeEligible":true,"healthy":true`, `"lastUpdated"`)
	answers(healthz, "/livez", 200, `"healthy":true`)
	answers(metrics, "/healthz", 200, "ok")
	answers(metrics, "/proxyMode", 200, "nftables")
	answers(metrics, "/configz", 200, `{"kubeproxy.config.k8s.io":{`, `"clusterCIDR":"10.244.0.0/16,fd00:10:244::/48"`)
	answers(metrics, "/metrics", 200, "nfproxy_event_to_commit_seconds_count", `kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`, "rest_client_requests_total")

	client := c.addPod("default", "client", nil, "10.244.1.99")
	for range 20 {
		if _, err := greeting(t.Context(), client.Namespace, b.frontend); err != nil {
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
func (c *testCluster) taint(taints ...corev1.Taint) {
	c.t.Helper()
	node, err := c.CoreV1().Nodes().Get(c.t.Context(), clusterNode, metav1.GetOptions{})
	if err == nil {
		node.Spec.Taints = taints
		_, err = c.CoreV1().Nodes().Update(c.t.Context(), node, metav1.UpdateOptions{})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}
