package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The outcomes of a test.
const (
	passed  = "passed"
	failed  = "failed"
	omitted = "left out"
)

// recordFile has the results of the last complete run. `make conformance` writes it.
const recordFile = "docs/conformance/results.json"

// record is a complete run.
type record struct {
	Date       string            `json:"date"`
	Commit     string            `json:"commit"`
	Kubernetes string            `json:"kubernetes"`
	Kernel     string            `json:"kernel"`
	Processors int               `json:"processors"`
	Packages   map[string]string `json:"packages"` // versions of Debian's packages
	Clusters   []clusterRun      `json:"clusters"`
	Results    []result          `json:"results"` // by name
}

// clusterRun is the part of a run on one cluster.
type clusterRun struct {
	Name     string `json:"name"`
	Nodes    int    `json:"nodes"`
	Families string `json:"families"`
	Procs    int    `json:"procs"` // tests at the same time
	Seconds  int    `json:"seconds"`
}

// result is the outcome of one test.
type result struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Cluster string `json:"cluster,omitempty"`
	Seconds int    `json:"seconds,omitempty"`
	Reason  string `json:"reason,omitempty"` // of a test that is left out or has failed
}

// shapes are the clusters on which the tests run.
var shapes = []shape{
	{name: "dual", nodes: 3},
	{name: "zones", nodes: 6}, // three zones of two nodes each
	// With two families "should only target nodes with endpoints" asks for an IPv6 address without brackets, and fails with any proxy.
	{name: "ipv4", nodes: 3, ipv4: true},
}

// clusterOf returns the name of the cluster on which a test runs.
func clusterOf(name string) string {
	switch {
	case strings.Contains(name, "] Traffic Distribution ") || strings.Contains(name, "] Topology Hints "):
		return "zones"
	case strings.Contains(name, "] LoadBalancers "):
		return "ipv4"
	}
	return "dual"
}

// sigNetwork begins the names of the tests that are considered.
const sigNetwork = "[sig-network] "

// judge returns the outcome of every test, from the reports of the clusters, or an error about each test that was left out without a
// reason.
func judge(reports map[string][]spec) ([]result, error) {
	results := make(map[string]result)
	var errs []error
	for cluster, specs := range reports {
		for _, s := range specs {
			name := s.name()
			if !strings.HasPrefix(name, sigNetwork) || clusterOf(name) != cluster {
				continue
			}
			r, err := judgeOne(s)
			r.Cluster = cluster
			if r.Outcome == omitted {
				r.Cluster = ""
			}
			results[name] = r
			errs = append(errs, err)
		}
	}
	var all []result
	for _, r := range results {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b result) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(errs...)
}

// judgeOne returns the outcome of a test. A test that skipped itself is left out like one that was not selected, and so is one that has
// a rule now and had none when it ran.
func judgeOne(s spec) (result, error) {
	r := result{Name: s.name(), Seconds: int(s.Took.Round(time.Second) / time.Second)}
	rules := rulesOf(leftOut, r.Name)
	switch {
	case len(rules) > 0:
		r.Outcome, r.Seconds, r.Reason = omitted, 0, rules[0].reason
	case s.State == "passed":
		r.Outcome = passed
	case s.State == "skipped" || s.State == "pending":
		r.Outcome, r.Seconds = omitted, 0
		return r, fmt.Errorf("left out without a reason: %s: %s", r.Name, s.Failure.Message)
	default:
		r.Outcome, r.Reason = failed, firstLine(s.Failure.Message)
	}
	return r, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// readRecord returns the last complete run.
func readRecord(t testing.TB) record {
	t.Helper()
	text, err := os.ReadFile(recordFile)
	if err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%s: %v", recordFile, err)
	}
	return r
}

// TestJudge: a test that is skipped without a rule is an error, whether it ran and skipped itself or did not run at all.
func TestJudge(t *testing.T) {
	of := func(text, state string, attempts int) spec {
		s := spec{Containers: []string{"[sig-network] Services"}, Type: "It", Text: text, State: state, Attempts: attempts, Took: 1600 * time.Millisecond}
		s.Failure.Message = "why\nand more"
		return s
	}
	sctp := "should work [Feature:SCTPConnectivity]"
	for _, c := range []struct {
		spec spec
		want result
		err  string
	}{
		{of("a", "passed", 1), result{Outcome: passed, Cluster: "dual", Seconds: 2}, ""},
		{of("a", "failed", 1), result{Outcome: failed, Cluster: "dual", Seconds: 2, Reason: "why"}, ""},
		{of("a", "timedout", 1), result{Outcome: failed, Cluster: "dual", Seconds: 2, Reason: "why"}, ""},
		{of("a", "skipped", 0), result{Outcome: omitted}, "left out without a reason: [sig-network] Services a"},
		{of("a", "skipped", 1), result{Outcome: omitted}, "left out without a reason: [sig-network] Services a"},
		{of(sctp, "skipped", 0), result{Outcome: omitted, Reason: leftOut[0].reason}, ""},
		{of(sctp, "failed", 1), result{Outcome: omitted, Reason: leftOut[0].reason}, ""},
	} {
		c.want.Name = c.spec.name()
		got, err := judge(map[string][]spec{"dual": {c.spec}, "zones": {c.spec}})
		if len(got) != 1 || got[0] != c.want {
			t.Errorf("%s %s: got %+v, want %+v", c.spec.State, c.spec.Text, got, c.want)
		}
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %s: error %v, want %q", c.spec.State, c.spec.Text, err, c.err)
		}
	}
}

// TestResults: in the last run every test has passed, or is left out for the reason of its rule.
func TestResults(t *testing.T) {
	last := readRecord(t)
	for _, r := range last.Results {
		rules := rulesOf(leftOut, r.Name)
		switch {
		case r.Outcome == passed && len(rules) == 0:
		case r.Outcome == omitted && len(rules) > 0 && r.Reason == rules[0].reason:
		default:
			t.Errorf("%s: %s (%s), with the rules %v", r.Name, r.Outcome, r.Reason, rules)
		}
	}
	if n := len(last.Results); n < 200 {
		t.Errorf("the last run has %d tests, want all of [sig-network], more than 200", n)
	}
}
