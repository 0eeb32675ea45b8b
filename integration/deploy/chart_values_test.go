package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// chartValue is a value of values.yaml: its path, its default as JSON and its comment.
type chartValue struct{ path, value, meaning string }

// documentedValues returns the values that have a comment, in the order of values.yaml. A map without a comment is a group,
// whose values must have comments.
func documentedValues(t testing.TB) []chartValue {
	t.Helper()
	text, err := os.ReadFile(chart + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var all []chartValue
	var collect func(prefix string, in *yaml.Node)
	collect = func(prefix string, in *yaml.Node) {
		for i := 0; i < len(in.Content); i += 2 {
			key, value := in.Content[i], in.Content[i+1]
			path := prefix + key.Value
			switch {
			case key.HeadComment != "":
				all = append(all, chartValue{path, asJSON(t, value), meaning(key.HeadComment)})
			case value.Kind == yaml.MappingNode && len(value.Content) > 0:
				collect(path+".", value)
			default:
				t.Errorf("values.yaml: %s has no comment", path)
			}
		}
	}
	collect("", document.Content[0])
	return all
}

// meaning returns the text of a comment on one line.
func meaning(comment string) string {
	var lines []string
	for line := range strings.Lines(comment) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(line, "#")))
	}
	return strings.Join(lines, " ")
}

// monitored are values that enable every optional object of the chart.
const monitored = manifestValues + `
podMonitor: {enabled: true}
prometheusRule: {enabled: true}
grafanaDashboard: {enabled: true}
`

// valueChanges has another setting for each value, in the syntax of --set-json, and a text that the chart then renders and
// does not render by default.
var valueChanges = []struct{ path, value, shows string }{
	{"image.repository", `"registry.example/network/nfproxy"`, "image: registry.example/network/nfproxy:v"},
	{"image.tag", `"v9.9.9"`, "image: nfproxy:v9.9.9\n"},
	{"image.digest", `"sha256:` + strings.Repeat("0a", 32) + `"`, "@sha256:0a0a"},
	{"image.pullPolicy", `"Always"`, "imagePullPolicy: Always"},
	{"image.pullSecrets", `[{"name":"registry"}]`, "- name: registry"},
	{"apiServer", `"https://10.0.0.10:443"`, "server: https://10.0.0.10:443"},
	{"clusterCIDR", `"10.244.0.0/16,fd00:10:244::/48"`, "clusterCIDR: 10.244.0.0/16,fd00:10:244::/48"},
	{"detectLocalMode", `"NodeCIDR"`, "detectLocalMode: NodeCIDR"},
	{"serviceProxyName", `"blue",healthzBindAddress="0.0.0.0:10356",metricsBindAddress="0.0.0.0:10349"`, "- --service-proxy-name=blue\n"},
	{"healthzBindAddress", `"0.0.0.0:11256"`, "containerPort: 11256, hostPort: 11256"},
	{"metricsBindAddress", `"[::]:11249"`, "containerPort: 11249, hostPort: 11249"},
	{"config", `{"oomScoreAdj":0,"conntrack":{"min":1048576,"tcpBeLiberal":true}}`, "      min: 1048576\n"},
	{"existingConfigMap", `"kube-proxy",apiServer="",metricsBindAddress="0.0.0.0:10249"`, "configMap: {name: kube-proxy}"},
	{"extraArgs", `["--connection-counters=endpoints"]`, "- --connection-counters=endpoints"},
	{"extraEnv", `[{"name":"GOMEMLIMIT","value":"1GiB"}]`, "- name: GOMEMLIMIT"},
	{"resources", `{"limits":{"memory":"2Gi"}}`, "memory: 2Gi"},
	{"tolerations", `[{"key":"gpu","operator":"Equal","value":"yes","effect":"NoSchedule"}]`, "key: gpu"},
	{"nodeSelector", `{"pool":"web"}`, "pool: web"},
	{"affinity", `{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":` +
		`[{"matchExpressions":[{"key":"virtual","operator":"DoesNotExist"}]}]}}}`, "key: virtual"},
	{"podLabels", `{"k8s-app":"kube-proxy"}`, "k8s-app: kube-proxy"},
	{"podAnnotations", `{"team":"network"}`, "team: network"},
	{"priorityClassName", `"system-cluster-critical"`, "priorityClassName: system-cluster-critical"},
	{"updateStrategy", `{"rollingUpdate":{"maxUnavailable":3}}`, "maxUnavailable: 3"},
	{"serviceAccount.create", `false`, ""},
	{"serviceAccount.name", `"proxy"`, "serviceAccountName: proxy"},
	{"serviceAccount.annotations", `{"role":"none"}`, "role: none"},
	{"rbac.create", `false`, ""},
	{"podMonitor.enabled", `false`, ""},
	{"podMonitor.namespace", `"monitoring"`, "namespace: monitoring"},
	{"podMonitor.labels", `{"release":"prometheus"}`, "release: prometheus"},
	{"podMonitor.jobLabel", `"k8s-app"`, "jobLabel: k8s-app"},
	{"podMonitor.interval", `"15s"`, "interval: 15s"},
	{"podMonitor.scrapeTimeout", `"5s"`, "scrapeTimeout: 5s"},
	{"podMonitor.relabelings", `[{"sourceLabels":["__meta_kubernetes_pod_node_name"],"targetLabel":"node"}]`, "targetLabel: node"},
	{"podMonitor.metricRelabelings", `[{"sourceLabels":["__name__"],"regex":"go_.*","action":"drop"}]`, "action: drop"},
	{"prometheusRule.enabled", `false`, ""},
	{"prometheusRule.namespace", `"monitoring"`, "namespace: monitoring"},
	{"prometheusRule.labels", `{"release":"prometheus"}`, "release: prometheus"},
	{"grafanaDashboard.enabled", `false`, ""},
	{"grafanaDashboard.namespace", `"monitoring"`, "namespace: monitoring"},
	{"grafanaDashboard.labels", `{"dashboards":"yes"}`, "dashboards: \"yes\""},
	{"grafanaDashboard.annotations", `{"grafana_folder":"Network"}`, "grafana_folder: Network"},
}

// TestChartValues: every value changes what the chart renders; unknown, mistyped and contradictory values are rejected by name.
func TestChartValues(t *testing.T) {
	t.Run("changes", func(t *testing.T) {
		var want, have []string
		for _, v := range documentedValues(t) {
			want = append(want, v.path)
		}
		before, err := chartText(t, chart, monitored)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range valueChanges {
			have = append(have, c.path)
			after, err := chartText(t, chart, monitored, c.path+"="+c.value)
			switch {
			case err != nil:
				t.Error(err)
			case string(before) == string(after):
				t.Errorf("%s=%s changes nothing", c.path, c.value)
			case c.shows != "" && (strings.Contains(string(before), c.shows) || !strings.Contains(string(after), c.shows)):
				t.Errorf("%s=%s: %q must appear with this setting only:\n%s", c.path, c.value, c.shows, after)
			}
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Errorf("valueChanges does not list the values of values.yaml (-values.yaml +valueChanges):\n%s", diff)
		}
	})
	t.Run("wrong types", func(t *testing.T) { // no value is a number
		var set []string
		for _, v := range documentedValues(t) {
			set = append(set, v.path+"=1")
		}
		_, err := chartText(t, chart, manifestValues, set...)
		for _, v := range documentedValues(t) {
			if at := "at '/" + strings.ReplaceAll(v.path, ".", "/") + "': got number, want "; !strings.Contains(fmt.Sprint(err), at) {
				t.Errorf("%s=1 is not rejected: %v", v.path, err)
			}
		}
	})
	t.Run("unknown", func(t *testing.T) {
		for _, path := range []string{"apiserver", "image.name", "rbac.enabled", "serviceAccount.labels", "podMonitor.intervall",
			"prometheusRule.rules", "grafanaDashboard.folder", "resources.request", "updateStrategy.kind", "affinity.nodeAffinities",
			"config.clusterCidr", "config.conntrack.maxPerCpu", "config.mode", "config.clusterCIDR", "config.metricsBindAddress",
			"config.clientConnection"} {
			group, name := "", path
			if i := strings.LastIndex(path, "."); i >= 0 {
				group, name = "/"+strings.ReplaceAll(path[:i], ".", "/"), path[i+1:]
			}
			_, err := chartText(t, chart, manifestValues, path+"={}")
			want := fmt.Sprintf("at '%s': additional properties '%s' not allowed", group, name)
			if !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("%s: got error %v, want %q", path, err, want)
			}
		}
	})
	t.Run("contradictory", testContradictoryValues)
}

// testContradictoryValues: the error for values that cannot work says what to set instead.
func testContradictoryValues(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"", "Set apiServer to the API server's address as a node reaches it without nfproxy, such as https://10.0.0.10:6443: " +
			"the cluster IP that a Pod is told works only once nfproxy has programmed it."},
		{"existingConfigMap: kube-proxy\napiServer: https://a:6443", "apiServer would be ignored: existingConfigMap is set"},
		{"existingConfigMap: kube-proxy\nclusterCIDR: 10.0.0.0/8", "clusterCIDR would be ignored"},
		{"existingConfigMap: kube-proxy\ndetectLocalMode: NodeCIDR", "detectLocalMode would be ignored"},
		{"existingConfigMap: kube-proxy\nconfig: {oomScoreAdj: 0}", "config would be ignored"},
		{"existingConfigMap: kube-proxy\npodMonitor: {enabled: true}", "set metricsBindAddress to what ConfigMap kube-proxy says"},
		{manifestValues + "\ndetectLocalMode: BridgeInterface",
			"detectLocalMode BridgeInterface: set config.detectLocal.bridgeInterface"},
		{manifestValues + "\ndetectLocalMode: InterfaceNamePrefix\nconfig: {detectLocal: {bridgeInterface: cni0}}",
			"set config.detectLocal.interfaceNamePrefix"},
		{manifestValues + "\nserviceProxyName: blue", "serviceProxyName: set healthzBindAddress as well"},
		{monitored + "serviceProxyName: blue\nhealthzBindAddress: 0.0.0.0:10356", "serviceProxyName with podMonitor.enabled: set metricsBindAddress as well"},
		{manifestValues + "\nserviceProxyName: Blue", "at '/serviceProxyName': 'Blue' does not match pattern"},
		{monitored + "metricsBindAddress: 127.0.0.1:10249", "Prometheus would reach no metrics"},
		{manifestValues + "\nhealthzBindAddress: '[::1]:10256'", "healthzBindAddress [::1]:10256 is a loopback address"},
		{"apiServer: kube-apiserver:6443", "at '/apiServer': 'kube-apiserver:6443' does not match pattern"},
		{manifestValues + "\nclusterCIDR: 10.244.0.0", "at '/clusterCIDR': '10.244.0.0' does not match pattern"},
		{manifestValues + "\ndetectLocalMode: nodeCIDR", "at '/detectLocalMode': value must be one of"},
		{manifestValues + "\nmetricsBindAddress: 10249", "at '/metricsBindAddress': got number, want string"},
		{manifestValues + "\nmetricsBindAddress: localhost:10249",
			"at '/metricsBindAddress': 'localhost:10249' does not match pattern"},
		{manifestValues + "\nimage: {digest: 0a0a}", "at '/image/digest': '0a0a' does not match pattern"},
		{manifestValues + "\nimage: {repository: 'nfproxy:v1'}", "at '/image/repository': 'nfproxy:v1' does not match pattern"},
		{manifestValues + "\npodLabels: {app.kubernetes.io/name: other}", "invalid propertyName 'app.kubernetes.io/name'"},
		{manifestValues + "\npodMonitor: {interval: 30 seconds}", "at '/podMonitor/interval': '30 seconds' does not match pattern"},
		{manifestValues + "\nresources: {requests: {cpu: 20 m}}", "at '/resources/requests/cpu': '20 m' does not match pattern"},
		{manifestValues + "\nconfig: {conntrack: {tcpCloseWaitTimeout: 1 hour}}", "at '/config/conntrack/tcpCloseWaitTimeout'"},
	} {
		if _, err := chartText(t, chart, c.values); !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: got error %v, want %q", c.values, err, c.want)
		}
	}
}

// TestChartREADME: the table of values in the chart's README agrees with values.yaml. -update rewrites it.
func TestChartREADME(t *testing.T) {
	const file, begin = chart + "/README.md", "| value | default | meaning |\n|---|---|---|\n"
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, _, ok := strings.Cut(string(have), begin)
	if !ok {
		t.Fatalf("%s has no table of values", file)
	}
	var b strings.Builder
	b.WriteString(text + begin)
	for _, v := range documentedValues(t) {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", v.path, v.value, strings.ReplaceAll(v.meaning, "|", `\|`))
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := cmp.Diff(b.String(), string(have)); diff != "" {
		t.Errorf("%s differs from values.yaml; go test ./integration/deploy -run TestChartREADME -update rewrites it (-want +have):\n%s",
			file, diff)
	}
}

// asJSON returns a YAML node in the syntax of --set-json.
func asJSON(t testing.TB, node *yaml.Node) string {
	t.Helper()
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestChartServiceProxyName: releases with different names have no object, and no label that selects Pods, in common.
func TestChartServiceProxyName(t *testing.T) {
	names := func(set ...string) map[string]bool {
		all := make(map[string]bool)
		for _, o := range rendered(t, monitored, set...) {
			all[o.GetKind()+" "+o.GetName()] = true
			all["label "+o.GetLabels()["app.kubernetes.io/name"]] = true
		}
		return all
	}
	plain := names()
	blue := names(`serviceProxyName="blue"`, `healthzBindAddress="0.0.0.0:10356"`, `metricsBindAddress="0.0.0.0:10349"`)
	if len(plain) != len(blue) || len(blue) < 8 {
		t.Errorf("objects %v, with a name %v", plain, blue)
	}
	for name := range blue {
		if plain[name] {
			t.Errorf("both releases have %s", name)
		}
	}
}
