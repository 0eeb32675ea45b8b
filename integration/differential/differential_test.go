package differential

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	"pgregory.net/rapid"
)

// The seed and the number of clusters of TestDifferential.
var (
	seed     = flag.String("differential.seed", "1", "seed of the random clusters")
	clusters = flag.String("differential.clusters", "18", "number of random clusters")
)

// TestDifferential: for random clusters and random sequences of edits, packets experience the same with nfproxy as with kube-proxy,
// except for the deliberate differences. A case with another difference is shrunk for some minutes and printed as a file for
// testdata.
func TestDifferential(t *testing.T) {
	for name, value := range map[string]string{"rapid.seed": *seed, "rapid.checks": *clusters, "rapid.shrinktime": "8m", "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	a := newArena(t)
	var count tally
	defer func() { t.Logf("%v; %d tables of endpoints with different weights", count, a.weightedTables) }()
	rapid.Check(t, func(r *rapid.T) {
		c := cases().Draw(r, "case")
		found, err := a.play(c, &count)
		if len(found) == 0 && err == nil {
			return
		}
		text, _ := c.format(report(found) + "\n")
		if err != nil {
			r.Fatalf("%v\n%s", err, text)
		}
		r.Fatalf("unexpected differences between the proxies:\n%s", text)
	})
}

// TestCases plays the cases in testdata, which have once shown a difference.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("integration/differential/testdata/*.txtar")
	check(t, err)
	a := newArena(t)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			check(t, err)
			c, err := parseCase(data)
			check(t, err)
			found, err := a.play(c, new(tally))
			check(t, err)
			if len(found) > 0 {
				t.Errorf("unexpected differences between the proxies:\n%s", report(found))
			}
		})
	}
}

// TestCaseText: a case can be written as text and read again.
func TestCaseText(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := cases().Draw(r, "case")
		text, err := c.format("")
		if err != nil {
			r.Fatal(err)
		}
		again, err := parseCase(text)
		if err != nil {
			r.Fatalf("%v\n%s", err, text)
		}
		if c.config != again.config || len(c.states) != len(again.states) {
			r.Fatalf("read again: %+v", again)
		}
		for i := range c.states {
			one, other := c.states[i].objects(), again.states[i].objects()
			if !equality.Semantic.DeepEqual(one, other) {
				r.Fatalf("state %d: %s\n%s", i, cmp.Diff(one, other), text)
			}
		}
	})
}

// play shows a case to both proxies and returns the unexpected differences after the first state with any.
func (a *arena) play(c testCase, count *tally) ([]difference, error) {
	count.clusters++
	if err := a.begin(c.config, c.states[0]); err != nil {
		return nil, err
	}
	last := state{}
	for i, now := range c.states {
		found, err := a.step(i, last, now, count)
		if err != nil {
			return nil, fmt.Errorf("state %d: %w", i, err)
		}
		for j := range found {
			found[j].what = fmt.Sprintf("state %d: %s", i, found[j].what)
		}
		if len(found) > 0 {
			return found, nil
		}
		last = now
	}
	return a.compareRestarted(count)
}

// step changes the cluster to state number i, unless it is the first, and compares the proxies.
func (a *arena) step(i int, last, now state, count *tally) ([]difference, error) {
	var found []difference
	var err error
	a.last, a.now = last, now
	if i > 0 {
		count.edits++
		if found, err = a.edit(last, now, count); err != nil {
			return nil, err
		}
	} else if err := a.awaitSync(); err != nil {
		return nil, err
	}
	targets := targetsOf(now)
	for _, compare := range []func([]*target, *tally) ([]difference, error){a.compareAgain, a.compareExpiry} {
		more, err := compare(targets, count)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	more, err := a.compareHealth(now, count)
	return append(found, more...), err
}

// edit changes the cluster while flows are open.
func (a *arena) edit(last, now state, count *tally) ([]difference, error) {
	targets := targetsOf(last)
	k, n, err := both(a, func(c *contestant) ([]*flow, error) {
		if err := flush(c.node); err != nil {
			return nil, err
		}
		return openFlows(c.node, targets)
	})
	defer closeFlows(k)
	defer closeFlows(n)
	if err != nil {
		return nil, err
	}
	if err := a.store(now); err != nil {
		return nil, err
	}
	// kube-proxy reads some of these only when it starts, and others once an hour.
	if !equality.Semantic.DeepEqual(last.node, now.node) || !equality.Semantic.DeepEqual(last.cidrs, now.cidrs) {
		if err := a.startKubeProxy(); err != nil {
			return nil, err
		}
	}
	if err := a.awaitSync(); err != nil {
		return nil, err
	}
	return a.compareFlows(k, n, count)
}
