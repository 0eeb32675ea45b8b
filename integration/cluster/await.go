package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Timeout limits one operation of a test, such as one connection. EventuallyTrue waits three times as long.
const Timeout = 10 * time.Second

// Condition reports whether something holds and, for the failure message, describes the state in which it does not.
type Condition func() (ok bool, otherwise string)

// EventuallyTrue checks a condition until it holds, and fails the test if it does not hold within three times Timeout. The
// failure message says what was expected to hold.
func EventuallyTrue(t testing.TB, what string, holds Condition) {
	t.Helper()
	for deadline := time.Now().Add(3 * Timeout); ; time.Sleep(20 * time.Millisecond) {
		ok, otherwise := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s: %s", what, otherwise)
		}
	}
}

// Not returns the negation of a condition.
func Not(holds Condition) Condition {
	return func() (bool, string) {
		ok, otherwise := holds()
		return !ok, "the opposite holds: " + otherwise
	}
}

// DumpContains returns the condition that the output of nfproxy dump contains all of the texts.
func (c *Cluster) DumpContains(texts ...string) Condition {
	return func() (bool, string) {
		out, _ := Command(c.T, "dump").CombinedOutput() // fails if there are no tables
		return containsAll(string(out), texts)
	}
}

// containsAll reports whether the output contains all of the texts, and which it lacks.
func containsAll(output string, texts []string) (bool, string) {
	missing := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return strings.Contains(output, s) })
	return len(missing) == 0, fmt.Sprintf("the output lacks %q:\n%s", missing, output)
}
