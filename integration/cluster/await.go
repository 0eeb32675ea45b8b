package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// tables says whether nfproxy dump shows every one of the texts.
func (c *Cluster) DumpContains(texts ...string) func() (bool, string) {
	return func() (bool, string) {
		out, _ := Command(c.T, "dump").CombinedOutput() // without tables it fails
		missing := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return strings.Contains(string(out), s) })
		return len(missing) == 0, fmt.Sprintf("%q is not in\n%s", missing, out)
	}
}

func Not(holds func() (bool, string)) func() (bool, string) {
	return func() (bool, string) {
		ok, otherwise := holds()
		return !ok, "it is: " + otherwise
	}
}

// patience is how long a test waits for what must happen.
const Timeout = 10 * time.Second

// eventuallyTrue waits for what must happen.
func EventuallyTrue(t testing.TB, what string, holds func() (ok bool, otherwise string)) {
	t.Helper()
	for deadline := time.Now().Add(3 * Timeout); ; time.Sleep(20 * time.Millisecond) {
		ok, otherwise := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s; %s", what, otherwise)
		}
	}
}
