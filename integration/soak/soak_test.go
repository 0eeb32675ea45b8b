//go:build linux

package main

import (
	"os/exec"
	"testing"
	"time"
)

// TestSoak: a short run of make soak. No connection to a Service fails, whether the Service changes or not, open connections
// survive the restarts, elements that another program deletes are repaired, nfproxy's descriptors and goroutines do not
// accumulate, and the tables are as desired at the end.
func TestSoak(t *testing.T) {
	program, err := exec.LookPath("nfproxy")
	if err != nil {
		t.Fatal(err)
	}
	o := options{
		Duration: 20 * time.Second, Services: 1000, Flows: 20_000, Rate: 100, Restart: 3 * time.Second, Sample: time.Second,
		Foreign: 500 * time.Millisecond, Deletion: 2 * time.Second, Settle: 30 * time.Second, Seed: 1, Program: program, Out: t.TempDir(),
	}
	r, err := run(t.Context(), o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, sentence := range r.Wrong {
		t.Error(sentence)
	}
	for column, least := range map[string]float64{"restarts": leastRestarts, "foreign_deletions": 2, "flows_inserted": 20_000} {
		if got := r.Summary.Totals[column]; got < least {
			t.Errorf("%s is %v, want at least %v", column, got, least)
		}
	}
	const repaired = "repaired what others had changed"
	if r.Summary.Messages[repaired] == 0 { // unlike the metric, the log covers what happened right before a restart
		t.Errorf("nfproxy never logged %q", repaired)
	}
}
