package localhost

import (
	"os"
	"testing"

	"nfproxy/leaktest"
	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own, with the loopback interface up, and fails if they leave
// goroutines behind.
func TestMain(m *testing.M) {
	os.Exit(sandbox.MainWithLoopback(func() int { return leaktest.Run(m) }))
}
