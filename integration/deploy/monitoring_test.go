package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const (
	rulesFile     = "deploy/prometheus-rules.yaml"
	dashboardFile = "deploy/grafana-dashboard.json"
)

var (
	// metricRow matches a row of docs/metrics.md: name, type, and the rest.
	metricRow  = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([a-z]+) \\|(.*)$")
	metricName = regexp.MustCompile(`\b(?:kubeproxy|nfproxy|rest_client|go|process)_[a-z0-9_]+`)
)

// TestRulesLoad: promtool accepts the alerting rules, and the alerts fire as deploy/prometheus-rules-test.yaml expects.
func TestRulesLoad(t *testing.T) {
	promtool(t, "check", "rules", rulesFile)
	promtool(t, "test", "rules", "deploy/prometheus-rules-test.yaml")
}

// TestRulesAreRecommended: there is an alert for each metric that docs/metrics.md marks for alerting, and for documented
// metrics only.
func TestRulesAreRecommended(t *testing.T) {
	documented := documentedMetrics(t)
	alerted := make(map[string]bool)
	for _, expr := range ruleExpressions(t) {
		for _, name := range metricsIn(expr, documented) {
			if alerted[name] = true; documented[name] == "" {
				t.Errorf("%s: docs/metrics.md has no metric %s", rulesFile, name)
			}
		}
	}
	for name, row := range documented {
		if strings.Contains(row, "**alert**") && !alerted[name] {
			t.Errorf("%s has no alert on %s", rulesFile, name)
		}
	}
}

// TestDashboard: the dashboard queries only documented metrics, and its expressions are valid PromQL.
func TestDashboard(t *testing.T) {
	documented := documentedMetrics(t)
	var rules []map[string]string
	for _, expr := range dashboardExpressions(t) {
		names := metricsIn(expr, documented)
		for _, name := range names {
			if documented[name] == "" && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "go_") {
				t.Errorf("%s: docs/metrics.md has no metric %s", dashboardFile, name)
			}
		}
		if len(names) == 0 {
			t.Errorf("%s: the expression %s names no metric", dashboardFile, expr)
		}
		expr = strings.NewReplacer("$__rate_interval", "5m", "$node", ".*").Replace(expr)
		rules = append(rules, map[string]string{"record": "panel", "expr": expr})
	}
	if len(rules) < 20 {
		t.Errorf("%s: found %d expressions, want at least 20: the test does not parse it correctly", dashboardFile, len(rules))
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", file)
}

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (make tools installs it)\n%s", strings.Join(args, " "), err, out)
	}
}

// documentedMetrics returns the metrics of docs/metrics.md with the rest of their rows. TestMetricsDocument checks the document
// against the program.
func documentedMetrics(t *testing.T) map[string]string {
	ours, _, _ := strings.Cut(readFile(t, "docs/metrics.md"), "\n## What kube-proxy has")
	all := make(map[string]string)
	for _, row := range metricRow.FindAllStringSubmatch(ours, -1) {
		all[row[1]] = row[2] + row[3]
	}
	if len(all) < 20 {
		t.Fatalf("docs/metrics.md: found %d metrics, want at least 20: the test does not parse it correctly", len(all))
	}
	return all
}

// metricsIn returns the metrics that an expression names, a histogram without its suffix.
func metricsIn(expr string, documented map[string]string) []string {
	var names []string
	for _, name := range metricName.FindAllString(expr, -1) {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && strings.HasPrefix(documented[base], "histogram") {
				name = base
			}
		}
		names = append(names, name)
	}
	return names
}

func ruleExpressions(t *testing.T) []string {
	var file struct {
		Groups []struct{ Rules []struct{ Expr string } }
	}
	if err := yaml.Unmarshal([]byte(readFile(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all = append(all, r.Expr)
		}
	}
	return all
}

func dashboardExpressions(t *testing.T) []string {
	var dashboard struct {
		Panels []struct {
			ID      int
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &dashboard); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	var all []string
	ids := make(map[int]bool)
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("%s: two panels have the id %d", dashboardFile, p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	return all
}
