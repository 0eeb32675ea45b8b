// Package leaktest finds goroutines that the tests of a package leave behind.
package leaktest

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// Run runs the tests and returns the exit status. If they pass, it waits a moment for goroutines that are about to end, and
// fails if others than those of the runtime and the testing package are left.
func Run(m *testing.M) int {
	status := m.Run()
	if fuzz := flag.Lookup("test.fuzz"); status != 0 || fuzz.Value.String() != "" { // a fuzz worker has goroutines of its own
		return status
	}
	if err := goleak.Find(ignored()...); err != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
		return 1
	}
	return 0
}

// ignored returns the goroutines that last as long as the process and belong to libraries.
func ignored() []goleak.Option {
	return nil
}
