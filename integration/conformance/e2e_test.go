//go:build linux

package conformance

import (
	"encoding/json"
	"fmt"
	"os"
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
	focus, skip string // regular expressions over names; skip prevails
	procs       int    // tests at the same time
	out         string // directory of the report and the log
	timeout     time.Duration
}

// runTests runs Kubernetes' tests in the control plane's namespace and returns all tests, those that were not selected too. The state of
// these is skipped, after no attempt.
func (c *cluster) runTests(s selection) []spec {
	c.t.Helper()
	if err := os.MkdirAll(s.out, 0o755); err != nil {
		c.t.Fatal(err)
	}
	registries := filepath.Join(c.dir, "registries.yaml")
	writeFile(c.t, registries, []byte("gcRegistry: "+registry+"\npromoterE2eRegistry: "+registry+"\n"))
	kubectl := programPath(c.t, "kubectl")
	report := filepath.Join(s.out, "report.json")
	args := []string{programPath(c.t, "ginkgo"),
		fmt.Sprintf("--procs=%d", s.procs), "--focus=" + s.focus, "--skip=" + s.skip, "--timeout=" + s.timeout.String(),
		"--no-color", "-v", "--silence-skips", "--poll-progress-after=0", "--output-dir=" + s.out, "--json-report=report.json",
		programPath(c.t, "e2e.test"), "--",
		"--kubeconfig=" + c.kubeconfig, "--kubectl-path=" + kubectl, "--provider=skeleton",
		fmt.Sprintf("--num-nodes=%d", c.shape.nodes), // without it tests that need two nodes skip themselves
		"--dns-domain=cluster.local", "--report-dir=" + s.out, "--disable-log-dump", "--dump-logs-on-failure=false",
	}
	m := startMachine(c.t, c.net.control, machineConfig{Name: "tests", Dir: s.out, Once: &program{
		Name: "tests", Args: args,
		Env: []string{"HOME=" + c.dir, "TMPDIR=" + c.dir, "PATH=" + filepath.Dir(kubectl) + ":/usr/bin:/bin", "KUBE_TEST_REPO_LIST=" + registries},
	}})
	<-m.exited
	m.stop()
	return readReport(c.t, report)
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

// anyOf returns a regular expression that matches names with any of the texts.
func anyOf(texts ...string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, regexp.QuoteMeta(text))
	}
	return strings.Join(quoted, "|")
}
