package deploy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/integration/cluster"
)

// kubeProxyDown is the alert of kubernetes-mixin without its delay of 15 minutes.
const kubeProxyDown = `groups:
- name: kubernetes-system-kube-proxy
  rules:
  - {alert: KubeProxyDown, expr: 'absent(up{job="kube-proxy"} == 1)'}
`

// TestKubeProxyDown: with the scrape configuration of docs/metrics.md a real Prometheus has one target of nfproxy's Pod, and the alert KubeProxyDown of
// kubernetes-mixin is silent until nfproxy ends. With another job it fires at once.
func TestKubeProxyDown(t *testing.T) {
	c := newDeployment(t)
	documented := c.scrapeConfig()
	flags := append(cluster.AgentArgs(c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy")), cluster.NodeName), "--metrics-bind-address=0.0.0.0:10249")
	nfproxy := cluster.StartDaemon(t, flags...)
	cluster.AwaitAnswer(t, 10256, "/readyz", 200, "ok")

	c.startPrometheus(9190, strings.Replace(documented, "job_name: kube-proxy", "job_name: nfproxy", 1))
	awaitValues(t, 9190, `up{job="nfproxy"}`, 1)
	awaitValues(t, 9190, `ALERTS{alertname="KubeProxyDown",alertstate="firing"}`, 1)

	c.startPrometheus(9191, documented)
	awaitValues(t, 9191, `up{job="kube-proxy",instance="`+cluster.NodeName+`"}`, 1)
	awaitValues(t, 9191, `kubeproxy_sync_proxy_rules_last_timestamp_seconds{job="kube-proxy",ip_family="IPv4"} > bool 0`, 1)
	awaitValues(t, 9191, `count(up)`, 1) // one target
	awaitValues(t, 9191, `ALERTS{alertname="KubeProxyDown"}`)
	nfproxy.Stop()
	awaitValues(t, 9191, `ALERTS{alertname="KubeProxyDown",alertstate="firing"}`, 1)
}

// scrapeConfig returns the scrape configuration of docs/metrics.md. In the place of the discovery, which Debian's Prometheus lacks, it has the
// targets that discovery makes of nfproxy's Pod, of a Pod with one more port, and of another Pod.
func (c *deployment) scrapeConfig() string {
	c.T.Helper()
	const discovery = "\n    - job_name: kube-proxy\n      kubernetes_sd_configs: [{role: pod, namespaces: {names: [kube-system]}}]\n"
	_, text, found := strings.Cut(readFile(c.T, "docs/metrics.md"), discovery)
	if !found {
		c.T.Fatal("docs/metrics.md has no scrape configuration")
	}
	pod := c.daemonSetPod()
	var targets []map[string]any
	add := func(labels map[string]string, port corev1.ContainerPort) {
		address := cluster.NodeAddrs[0].String()
		meta := map[string]string{"__meta_kubernetes_pod_ip": address, "__meta_kubernetes_pod_node_name": cluster.NodeName,
			"__meta_kubernetes_pod_container_port_name": port.Name}
		for name, value := range labels {
			meta["__meta_kubernetes_pod_label_"+strings.NewReplacer(".", "_", "/", "_", "-", "_").Replace(name)] = value
		}
		targets = append(targets, map[string]any{"targets": []string{fmt.Sprintf("%s:%d", address, port.ContainerPort)}, "labels": meta})
	}
	for _, port := range append(pod.Spec.Containers[0].Ports, corev1.ContainerPort{Name: "metrics", ContainerPort: 10249}) {
		add(pod.Labels, port)
		add(map[string]string{"app.kubernetes.io/name": "other"}, port)
	}
	static, err := json.Marshal(targets) // JSON is YAML
	if err != nil {
		c.T.Fatal(err)
	}
	lines := []string{"- job_name: kube-proxy", "  static_configs: " + string(static)}
	for line := range strings.Lines(text) {
		indented, ok := strings.CutPrefix(line, "    ")
		if !ok {
			break
		}
		lines = append(lines, strings.TrimRight(indented, "\n"))
	}
	return strings.Join(lines, "\n")
}

// startPrometheus starts a real Prometheus at a port of the loopback address.
func (c *deployment) startPrometheus(port int, scrape string) {
	c.T.Helper()
	if _, err := exec.LookPath("prometheus"); err != nil {
		c.T.Fatalf("prometheus is not installed: run `make tools` (%v)", err)
	}
	dir := cluster.DirWithFiles(c.T, map[string]string{"rules.yml": kubeProxyDown,
		"prometheus.yml": "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\nscrape_configs:\n" + scrape + "\n"})
	cmd := exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(c.T.TempDir(), "data"),
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port))
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cluster.StartProcess(c.T, cmd)
}

// awaitValues waits until a query returns these values.
func awaitValues(t *testing.T, port int, query string, want ...float64) {
	t.Helper()
	cluster.EventuallyTrue(t, fmt.Sprintf("%s is %v", query, want), func() (bool, string) {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/query?query=%s", port, url.QueryEscape(query)))
		if err != nil {
			return false, err.Error()
		}
		defer response.Body.Close()
		var answer struct {
			Status string
			Data   struct {
				Result []struct {
					Metric map[string]string
					Value  []any
				}
			}
		}
		if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
			return false, err.Error()
		}
		equal := answer.Status == "success" && len(answer.Data.Result) == len(want)
		for i, v := range want {
			equal = equal && fmt.Sprint(answer.Data.Result[i].Value[1]) == fmt.Sprint(v)
		}
		return equal, fmt.Sprintf("%+v", answer)
	})
}
