package kernel

import (
	"os"
	"testing"

	"nfproxy/leaktest"
	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own, where they may join multicast groups, and fails if they leave goroutines
// behind.
func TestMain(m *testing.M) {
	os.Exit(sandbox.Main(func() int { return leaktest.Run(m) }))
}
