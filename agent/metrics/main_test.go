package metrics

import (
	"os"
	"testing"

	"nfproxy/leaktest"
)

// TestMain fails if the tests leave goroutines behind.
func TestMain(m *testing.M) { os.Exit(leaktest.Run(m)) }
