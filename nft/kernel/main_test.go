package kernel

import (
	"os"
	"testing"

	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own, where they may join multicast groups.
func TestMain(m *testing.M) {
	os.Exit(sandbox.Main(m.Run))
}
