package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// BuildAgent builds nfproxy as Build does and returns the directory of the binary. Benchmarks measure memory, and the test
// binary needs more of it.
func BuildAgent(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := Build(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Build builds nfproxy with the flags of a release, as file nfproxy in a directory.
func Build(dir string) error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/nfproxy", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build nfproxy: %w\n%s", err, out)
	}
	return nil
}
