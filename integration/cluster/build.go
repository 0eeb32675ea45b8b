package cluster

import (
	"os"
	"os/exec"
	"testing"
)

// BuildAgent builds nfproxy with the flags of a release and returns the directory of the binary. Benchmarks measure memory,
// and the test binary needs more of it.
func BuildAgent(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/nfproxy", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return dir
}
