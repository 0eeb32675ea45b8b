package killpoints

import (
	"fmt"
	"os"
	"testing"

	"nfproxy/integration/cluster"
)

// TestMain runs the tests in a network namespace of their own. The test binary also serves as the launcher of supervised processes.
func TestMain(m *testing.M) { cluster.Main(m, map[string]func(){launcher: launch}) }

// nfproxyBinary returns the path of nfproxy, built with the flags of a release.
func nfproxyBinary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := cluster.Build(dir); err != nil {
		t.Fatal(err)
	}
	return dir + "/nfproxy"
}

// exitWith prints an error of the launcher and ends it.
func exitWith(what string, err error) {
	fmt.Fprintln(os.Stderr, what, err)
	os.Exit(1)
}
