package docs

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCoreIsPure holds the one rule of the architecture: the core imports the standard library and itself, and does no
// I/O with it.
func TestCoreIsPure(t *testing.T) {
	allowed := map[string]bool{"nfproxy/nft": true, "nfproxy/render": true}
	forbidden := map[string]bool{"os": true, "net": true, "net/http": true, "log": true, "log/slog": true, "syscall": true}
	for _, pkg := range []string{"nfproxy/nft", "nfproxy/render"} {
		for _, imported := range goList(t, `{{join .Imports "\n"}}`, pkg) {
			if forbidden[imported] {
				t.Errorf("%s imports %s: the core does no I/O", pkg, imported)
			}
		}
		for _, dep := range goList(t, `{{if not .Standard}}{{.ImportPath}}{{end}}`, "-deps", pkg) {
			if !allowed[dep] {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}

// TestImportsPointInwards: which of nfproxy's packages each one may depend on, its tests aside. Whoever is not here, such
// as package main, may depend on all, and nobody here on them.
func TestImportsPointInwards(t *testing.T) {
	for pkg, allowed := range map[string][]string{
		"nfproxy/nft":           {},
		"nfproxy/render":        {"nfproxy/nft"},
		"nfproxy/nft/kernel":    {"nfproxy/nft"},
		"nfproxy/watcher":       {"nfproxy/nft", "nfproxy/render"},
		"nfproxy/trace":         {"nfproxy/nft", "nfproxy/nft/kernel", "nfproxy/render"},
		"nfproxy/config":        {"nfproxy/nft", "nfproxy/render"},
		"nfproxy/agent/metrics": {"nfproxy/nft", "nfproxy/render"},
		"nfproxy/preflight":     {"nfproxy/nft", "nfproxy/nft/kernel", "nfproxy/render"},
		"nfproxy/agent": {"nfproxy/agent/metrics", "nfproxy/preflight", "nfproxy/config", "nfproxy/nft", "nfproxy/nft/kernel", "nfproxy/render",
			"nfproxy/watcher"},
	} {
		for _, dep := range goList(t, `{{.ImportPath}}`, "-deps", pkg) {
			if strings.HasPrefix(dep, "nfproxy") && dep != pkg && !slices.Contains(allowed, dep) {
				t.Errorf("%s depends on %s", pkg, dep)
			}
		}
	}
}

// goList asks go for a list of words.
func goList(t *testing.T, format string, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-f", format}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", args, err, out)
	}
	return strings.Fields(string(out))
}
