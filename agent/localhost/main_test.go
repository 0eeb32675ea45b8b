package localhost

import (
	"os"
	"testing"

	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own, with the loopback interface up.
func TestMain(m *testing.M) { os.Exit(sandbox.MainWithLoopback(m.Run)) }
