//go:build linux

package conformance

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// spec is one test in a report of ginkgo, with the fields that are read here.
type spec struct {
	Containers []string      `json:"ContainerHierarchyTexts"`
	Type       string        `json:"LeafNodeType"`
	Text       string        `json:"LeafNodeText"`
	State      string        `json:"State"`
	Attempts   int           `json:"NumAttempts"`
	Took       time.Duration `json:"RunTime"`
	Failure    struct{ Message string }
}

// name returns the full name of a test.
func (s spec) name() string { return strings.Join(append(slices.Clone(s.Containers), s.Text), " ") }

// selection says which tests to run.
type selection struct {
	names   []string
	procs   int    // tests at the same time
	out     string // directory of the report and the log, made anew
	timeout time.Duration
}

// listTests returns all tests, without a cluster.
func listTests(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), programPath(t, "ginkgo"), "--dry-run", "--output-dir="+dir, "--json-report=report.json",
		programPath(t, "e2e.test"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("list tests: %v\n%s", err, out)
	}
	var names []string
	for _, s := range readReport(t, filepath.Join(dir, "report.json")) {
		names = append(names, s.name())
	}
	return names
}

// runTests runs Kubernetes' tests in the control plane's namespace and returns all tests, those that were not selected too. The state of
// these is skipped, after no attempt.
func (c *testCluster) runTests(s selection) []spec {
	c.t.Helper()
	if err := os.RemoveAll(s.out); err != nil {
		c.t.Fatal(err)
	}
	registries := c.registries()
	kubectl := programPath(c.t, "kubectl")
	report := filepath.Join(s.out, "report.json")
	args := []string{programPath(c.t, "ginkgo"),
		fmt.Sprintf("--procs=%d", s.procs), "--focus=(" + anyOf(s.names) + ")$", "--timeout=" + s.timeout.String(),
		"--no-color", "-v", "--silence-skips", "--poll-progress-after=0", "--output-dir=" + s.out, "--json-report=report.json",
		programPath(c.t, "e2e.test"), "--",
		"--kubeconfig=" + c.kubeconfig, "--kubectl-path=" + kubectl, "--provider=skeleton",
		fmt.Sprintf("--num-nodes=%d", c.shape.nodes), // without it tests that need two nodes skip themselves
		"--dns-domain=cluster.local", "--report-dir=" + s.out, "--disable-log-dump", "--dump-logs-on-failure=false",
	}
	h := startHost(c.t, c.net.control, hostConfig{Name: "tests", Dir: s.out, Once: &program{
		Name: "tests", Args: args,
		Env: []string{"HOME=" + c.dir, "TMPDIR=" + c.dir, "PATH=" + filepath.Dir(kubectl) + ":/usr/bin:/bin", "KUBE_TEST_REPO_LIST=" + registries},
	}})
	<-h.exited
	h.end(c.t)
	if log, err := c.kubectl("", "--namespace=kube-system", "logs", "--selector=app.kubernetes.io/name=nfproxy", "--prefix", "--timestamps", "--tail=-1"); err == nil {
		writeFile(c.t, filepath.Join(s.out, "nfproxy.log"), []byte(log))
	}
	return readReport(c.t, report)
}

// registries writes the file that makes the tests ask for images of our registry, and returns its path.
func (c *testCluster) registries() string {
	c.t.Helper()
	path := filepath.Join(c.dir, "registries.yaml")
	writeFile(c.t, path, []byte("gcRegistry: "+registry+"\npromoterE2eRegistry: "+registry+"\n"))
	return path
}

// imageName returns the name by which the tests ask for an image.
func (c *testCluster) imageName(image string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), programPath(c.t, "e2e.test"), "-images")
	cmd.Env = []string{"KUBE_TEST_REPO_LIST=" + c.registries()}
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("list images: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if name, found := strings.CutPrefix(strings.TrimSpace(line), image+" "); found {
			return name
		}
	}
	c.t.Fatalf("the tests have no image %s:\n%s", image, out)
	return ""
}

// readReport reads a report of ginkgo.
func readReport(t testing.TB, path string) []spec {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("the tests have left no report: %v", err)
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(text, &suites); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var all []spec
	for _, suite := range suites {
		for _, s := range suite.SpecReports {
			if s.Type == "It" {
				all = append(all, s)
			}
		}
	}
	return all
}

// anyOf returns a regular expression that matches any of the texts.
func anyOf(texts []string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, regexp.QuoteMeta(text))
	}
	return strings.Join(quoted, "|")
}
