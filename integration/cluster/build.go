package cluster

import (
	"os"
	"os/exec"
	"testing"
)

// buildAgent builds nfproxy as it is shipped, for its memory is measured too, and returns the directory it is in.
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
