//go:build linux

package conformance

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/integration/machine"
)

// The flags of this package's tests.
var (
	run   = flag.Bool("conformance.run", false, "start clusters; without it the tests that need one are skipped")
	focus = flag.String("conformance.focus", "", "regular expression: run only tests of [sig-network] with such names, and write no document")
	skip  = flag.String("conformance.skip", "", "regular expression: leave out tests with such names, and write no document")
	procs = flag.Int("conformance.procs", 4, "number of tests at the same time")
	again = flag.Bool("conformance.again", false, "run no test, but judge the reports of the last complete run again, after a change of the rules")
	out   = flag.String("conformance.out", "dist/conformance", "directory of the reports and logs")
)

// needsCluster skips a test unless clusters may be started.
func needsCluster(t *testing.T) {
	t.Helper()
	if !*run {
		t.Skip("the test starts a whole cluster: run it by make conformance, conformance-part or conformance-up")
	}
	if os.Geteuid() != 0 {
		t.Fatal("a cluster needs root")
	}
}

// newServedCluster starts a cluster with nfproxy, DNS and load balancers.
func newServedCluster(t *testing.T, s shape) *testCluster {
	t.Helper()
	c := newCluster(t, s)
	c.serve()
	return c
}

// serve gives a cluster nfproxy, DNS and load balancers.
func (c *testCluster) serve() {
	c.t.Helper()
	c.runLoadBalancers()
	c.installNfproxy()
	c.installDNS()
}

// TestConformance runs Kubernetes' tests of [sig-network] on all clusters. A complete run writes the record and the document.
func TestConformance(t *testing.T) {
	needsCluster(t)
	if *again {
		r := readRecord(t)
		r.judgeAgain(t)
		return
	}
	r := record{
		Date: time.Now().UTC().Format(time.DateOnly), Commit: machine.Commit(), Kernel: machine.KernelRelease(), Processors: runtime.NumCPU(),
		Packages: containerdPackages(t),
	}
	reports := make(map[string][]spec)
	all := listTests(t)
	for _, s := range shapes {
		names := selectTests(t, all, s.name)
		if len(names) == 0 {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			begun := time.Now()
			c := newServedCluster(t, s)
			version, err := c.Discovery().ServerVersion()
			if err != nil {
				t.Fatal(err)
			}
			r.Kubernetes = version.GitVersion
			reports[s.name] = c.runTests(selection{names: names, procs: *procs, out: c.outDir(), timeout: 3 * time.Hour})
			r.Clusters = append(r.Clusters, clusterRun{s.name, s.nodes, s.families(), *procs, int(time.Since(begun).Seconds())})
		})
	}
	r.judge(t, reports)
}

// judge judges the reports of all clusters. It writes the record of a complete run, and its document.
func (r *record) judge(t *testing.T, reports map[string][]spec) {
	t.Helper()
	var err error
	if r.Results, err = judge(reports); err != nil && !partial() {
		t.Error(err)
	}
	report(t, r.Results)
	if !partial() && len(reports) == len(shapes) {
		writeRecord(t, *r)
	}
}

// judgeAgain judges the reports of the run of which r is the record.
func (r *record) judgeAgain(t *testing.T) {
	t.Helper()
	reports := make(map[string][]spec)
	for _, s := range shapes {
		reports[s.name] = readReport(t, filepath.Join(*out, s.name, "report.json"))
	}
	r.judge(t, reports)
}

// partial reports whether flags leave out tests.
func partial() bool { return *focus != "" || *skip != "" }

// selectTests returns the names of the tests that run on a cluster, as the flags restrict them.
func selectTests(t *testing.T, all []string, cluster string) []string {
	t.Helper()
	wanted, err := regexp.Compile(*focus)
	if err != nil {
		t.Fatalf("-conformance.focus: %v", err)
	}
	unwanted, err := regexp.Compile(*skip)
	if err != nil {
		t.Fatalf("-conformance.skip: %v", err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(name string) bool {
		return !strings.HasPrefix(name, sigNetwork) || clusterOf(name) != cluster || len(rulesOf(leftOut, name)) > 0 ||
			!wanted.MatchString(name) || *skip != "" && unwanted.MatchString(name)
	})
}

// outDir returns the directory of the reports and logs of a cluster.
func (c *testCluster) outDir() string {
	c.t.Helper()
	dir, err := filepath.Abs(filepath.Join(*out, c.name))
	if err != nil {
		c.t.Fatal(err)
	}
	return dir
}

// report logs the outcomes, and fails the test for each test that has failed.
func report(t *testing.T, results []result) {
	t.Helper()
	count := make(map[string]int)
	for _, r := range results {
		count[r.Outcome]++
		switch r.Outcome {
		case passed:
			t.Logf("%4d s %s", r.Seconds, r.Name)
		case failed:
			t.Errorf("failed after %d s: %s: %s", r.Seconds, r.Name, r.Reason)
		}
	}
	t.Logf("%d passed, %d failed, %d left out", count[passed], count[failed], count[omitted])
}

// TestPart runs the tests of partNames, after one of them has failed without a service proxy.
func TestPart(t *testing.T) {
	needsCluster(t)
	c := newCluster(t, shape{name: "part", nodes: 3, images: []string{"pause*", "agnhost", "busybox", "coredns", "nginx*", "regression-issue-74839"}})
	control := sigNetwork + controlName
	specs := c.runTests(selection{names: []string{control}, procs: 1, out: c.outDir() + "-without-proxy", timeout: 10 * time.Minute})
	if err := expectFailure(specs, control, controlFailure); err != nil {
		t.Fatalf("without a service proxy: %v", err)
	}
	c.serve()
	want := make(map[string]string)
	var names []string
	for _, name := range partNames {
		want[sigNetwork+name] = passed
		names = append(names, sigNetwork+name)
	}
	begun := time.Now()
	specs = c.runTests(selection{names: names, procs: *procs, out: c.outDir(), timeout: 20 * time.Minute})
	t.Logf("%d tests in %v", len(want), time.Since(begun).Round(time.Second))
	if err := expectOutcomes(specs, want); err != nil {
		t.Error(err)
	}
}

// expectOutcomes returns an error for each test that did not end as wanted, and for each other test that ran.
func expectOutcomes(specs []spec, want map[string]string) error {
	var errs []error
	got := make(map[string]string)
	for _, s := range specs {
		if s.Attempts == 0 {
			continue
		}
		r, _ := judgeOne(s) // a test that skipped itself is not as wanted
		got[r.Name] = r.Outcome
		if r.Outcome != want[r.Name] {
			errs = append(errs, fmt.Errorf("%s: %q, want %q: %s", r.Name, r.Outcome, want[r.Name], firstLine(s.Failure.Message)))
		}
	}
	for name, outcome := range want {
		if got[name] == "" {
			errs = append(errs, fmt.Errorf("%s did not run, want %q", name, outcome))
		}
	}
	return errors.Join(errs...)
}

// expectFailure returns an error unless the test with a name is the only one that ran, and failed with a message that begins with reason.
func expectFailure(specs []spec, name, reason string) error {
	err := expectOutcomes(specs, map[string]string{name: failed})
	for _, s := range specs {
		if s.Attempts > 0 && !strings.HasPrefix(s.Failure.Message, reason) {
			err = errors.Join(err, fmt.Errorf("%s: %q, want %q", s.name(), firstLine(s.Failure.Message), reason))
		}
	}
	return err
}

// TestExpectFailure: a test that failed for another reason is an error.
func TestExpectFailure(t *testing.T) {
	ran := spec{Type: "It", Text: "a", State: "failed", Attempts: 1}
	ran.Failure.Message = "no connection\nto 10.96.0.1"
	if err := expectFailure([]spec{ran}, "a", "no connection"); err != nil {
		t.Error(err)
	}
	for name, reason := range map[string]string{"a": "no Pod", "b": "no connection"} {
		if expectFailure([]spec{ran}, name, reason) == nil {
			t.Errorf("%s with %q: no error", name, reason)
		}
	}
}

// TestExpectOutcomes: a test that failed, skipped itself, did not run, or ran unasked is an error.
func TestExpectOutcomes(t *testing.T) {
	ran := func(name, state string) spec { return spec{Type: "It", Text: name, State: state, Attempts: 1} }
	for _, c := range []struct {
		specs []spec
		want  map[string]string
		ok    bool
	}{
		{[]spec{ran("a", "passed")}, map[string]string{"a": passed}, true},
		{[]spec{ran("a", "failed")}, map[string]string{"a": failed}, true},
		{[]spec{ran("a", "passed")}, map[string]string{"a": failed}, false},
		{[]spec{ran("a", "failed")}, map[string]string{"a": passed}, false},
		{[]spec{ran("a", "skipped")}, map[string]string{"a": passed}, false},
		{[]spec{{Text: "a", State: "skipped"}}, map[string]string{"a": passed}, false},
		{[]spec{ran("a", "passed"), ran("b", "passed")}, map[string]string{"a": passed}, false},
	} {
		if err := expectOutcomes(c.specs, c.want); (err == nil) != c.ok {
			t.Errorf("%+v, want %v: %v", c.specs, c.want, err)
		}
	}
}

// containerdPackages returns the versions of the Debian packages that the nodes run.
func containerdPackages(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(programPath(t, "containerd"), "packages"))
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		versions[name] = version
	}
	return versions
}

// writeRecord writes a complete run and its document.
func writeRecord(t *testing.T, r record) {
	t.Helper()
	text, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(recordFile), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, recordFile, append(text, '\n'))
	writeFile(t, documentFile, document(r))
}
