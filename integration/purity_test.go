package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCoreIsPure holds the one rule of the architecture: the core imports the standard library and itself, and does no
// I/O with it.
func TestCoreIsPure(t *testing.T) {
	allowed := map[string]bool{"nfproxy/nft": true, "nfproxy/render": true}
	forbidden := map[string]bool{"os": true, "net": true, "net/http": true, "log": true, "log/slog": true, "syscall": true}
	for _, pkg := range []string{"nfproxy/nft", "nfproxy/render"} {
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("go list %s: %v\n%s", pkg, err, out)
		}
		for imported := range strings.FieldsSeq(string(out)) {
			if forbidden[imported] {
				t.Errorf("%s imports %s: the core does no I/O", pkg, imported)
			}
		}
		out, err = exec.Command("go", "list", "-deps", "-f", `{{if not .Standard}}{{.ImportPath}}{{end}}`, pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("go list %s: %v\n%s", pkg, err, out)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			if !allowed[dep] {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}
