package main

import (
	"bytes"
	"os"
	"slices"
	"testing"
)

const committed = "../../../docs/design"

// TestCommittedResults: the committed page has the results that the experiments have, checked for those that take little time, and the
// plots of all figures.
func TestCommittedResults(t *testing.T) {
	page, err := os.ReadFile(committed + "/leastloaded/README.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, e := range experiments() {
		if !slices.Contains([]string{"rolling-at-once", "web"}, e.name) {
			continue
		}
		if want := section(e, run(e)); !bytes.Contains(page, want) {
			t.Errorf("the page differs from what the experiment %s results in, run make least-loaded:\n%s", e.name, want)
		}
		checked++
	}
	if checked != 2 {
		t.Errorf("%d experiments are checked, want 2", checked)
	}
	for _, f := range figures() {
		if _, err := os.Stat(committed + "/leastloaded/" + f.name + ".svg"); err != nil {
			t.Error(err)
		}
	}
}

// TestSummary: the table replaces the lines between the comments, and a document without them, or a missing result, is an error.
func TestSummary(t *testing.T) {
	var all results
	for _, e := range experiments() {
		for _, p := range e.policies {
			if !ownCounts(p) {
				all = append(all, result{experiment: e.name, policy: p})
				continue
			}
			for _, n := range e.nodes {
				all = append(all, result{experiment: e.name, policy: p, nodes: n})
			}
		}
	}
	got, err := withSummary([]byte("before\n"+summaryBegin+"old\n"+summaryEnd+"after\n"), all)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, []byte("before\n"+summaryBegin+"| |")) || !bytes.HasSuffix(got, []byte("|\n"+summaryEnd+"after\n")) || bytes.Contains(got, []byte("old")) {
		t.Errorf("the document became\n%s", got)
	}
	if _, err := withSummary([]byte("nothing"), all); err == nil {
		t.Error("a document without the comments is no error")
	}
	if _, err := withSummary(got, all[1:]); err == nil {
		t.Error("a missing result is no error")
	}
}
