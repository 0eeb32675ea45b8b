package killpoints

import (
	"os"
	"sync"
	"testing"

	"nfproxy/integration/cluster"
	"nfproxy/integration/supervise"
)

// TestMain runs the tests in a network namespace of their own. The test binary also serves as the launcher of supervised processes.
func TestMain(m *testing.M) { cluster.Main(m, map[string]func(){supervise.Launcher: supervise.Launch}) }

// build builds nfproxy once for all tests.
var build = sync.OnceValues(func() (binary string, err error) {
	dir, err := os.MkdirTemp("", "killpoints")
	if err == nil {
		err = cluster.Build(dir)
	}
	return dir + "/nfproxy", err
})

// builtOnce returns the path of nfproxy, built with the flags of a release.
func builtOnce(t *testing.T) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}
