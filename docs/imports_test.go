package docs

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "nfproxy"

// layers lists every package of the module from the top down, with the packages of the module that its own files import;
// its tests are not counted. The package of the module's root is ".". A package imports only packages below itself, so the
// order of the list proves that there is no cycle of ideas.
var layers = []struct {
	pkg     string
	imports []string
}{
	// Tests, and programs that are no part of nfproxy.
	{"integration/apichaos", nil},
	{"integration/cli", nil},
	{"integration/clock", nil},
	{"integration/ipvs", nil},
	{"integration/apistub", []string{"integration/controlplane"}},
	{"integration/conformance", nil},
	{"integration/conformance/pause", nil},
	{"integration/deploy", nil},
	{"integration/datapath", nil},
	{"integration/differential", nil},
	{"integration/faults", nil},
	{"integration/fleet", nil},
	{"integration/kernel", nil},
	{"integration/foreignload", nil},
	{"integration/kernels", nil},
	{"integration/killpoints", nil},
	{"integration/supervise", nil},
	{"integration/soak", []string{"conntrack/ctnetlink", "integration/machine", "integration/scrape", "nlmsg", "sandbox"}},
	{"integration/compare", nil},
	{"integration/compare/page", []string{"integration/compare/record"}},
	{"integration/compare/record", []string{"integration/machine"}},
	{"integration/machine", nil},
	{"integration/scrape", nil},
	{"integration/cluster", []string{"cli", "integration/controlplane", "logtest", "sandbox"}},
	{"integration/controlplane", []string{"sandbox"}},
	{"release/krew", nil},
	{"release/licences", nil},

	// The program.
	{".", []string{"cli"}},
	{"cli", []string{"agent", "config", "demo", "fleet", "nft", "nft/kernel", "preflight", "render", "report", "running", "sandbox", "trace", "watcher"}},
	{"fleet", []string{"render", "report"}},
	{"demo", []string{"docs", "sandbox"}},
	{"agent", []string{"agent/health", "agent/localhost", "agent/metrics", "config", "conntrack", "conntrack/ctnetlink", "nft", "nft/kernel", "preflight",
		"ratelimit", "render", "report", "watcher"}},
	{"agent/health", []string{"agent/listeners", "agent/metrics", "agent/zpages", "config", "ratelimit", "render"}},
	{"agent/zpages", nil},
	{"agent/localhost", []string{"agent/listeners", "nft", "ratelimit", "render"}},
	{"agent/listeners", []string{"render"}},
	{"agent/metrics", []string{"nft", "render", "report"}},
	{"preflight", []string{"conntrack/ctnetlink", "nft", "nft/kernel", "render", "report"}},
	{"trace", []string{"nft", "nft/kernel", "nlmsg", "render", "report"}},
	{"watcher", []string{"config", "nft", "ratelimit", "render"}},
	{"config", []string{"render"}},

	// The pure core: TestCoreIsPure.
	{"report", []string{"nft", "render"}},
	{"render", []string{"conntrack", "nft"}},

	// The kernel. Package conntrack and package nft belong to the pure core.
	{"conntrack/ctnetlink", []string{"conntrack", "nft", "nlmsg"}},
	{"conntrack", []string{"nft"}},
	{"nft/kernel", []string{"nft", "nlmsg"}},
	{"nft", nil},
	{"nlmsg", nil},

	// Packages that import no other package of the module.
	{"running", nil},
	{"sandbox", nil},
	{"logtest", nil},
	{"leaktest", nil},
	{"ratelimit", nil},
	{"docs", nil},
}

// TestImports: layers lists every package of the module, once, with exactly the packages of the module that it imports.
func TestImports(t *testing.T) {
	listed := make(map[string][]string)
	for _, layer := range layers {
		if _, twice := listed[layer.pkg]; twice {
			t.Errorf("layers lists package %s twice", layer.pkg)
		}
		listed[layer.pkg] = layer.imports
	}
	for pkg, imports := range moduleImports(t) {
		allowed, ok := listed[pkg]
		if !ok {
			t.Errorf("layers does not list package %s: give it a line at its place, with its imports", pkg)
			continue
		}
		delete(listed, pkg)
		for _, imported := range imports {
			if !slices.Contains(allowed, imported) {
				t.Errorf("package %s imports %s, which layers does not allow", pkg, imported)
			}
		}
		for _, a := range allowed {
			if !slices.Contains(imports, a) {
				t.Errorf("layers allows package %s to import %s, but the package does not import it", pkg, a)
			}
		}
	}
	for pkg := range listed {
		t.Errorf("layers lists package %s, which does not exist", pkg)
	}
}

// TestImportsPointDown: in layers, every package imports only packages that are listed below it.
func TestImportsPointDown(t *testing.T) {
	place := make(map[string]int)
	for i, layer := range layers {
		place[layer.pkg] = i
	}
	for i, layer := range layers {
		for _, imported := range layer.imports {
			if j, ok := place[imported]; !ok || j <= i {
				t.Errorf("package %s imports %s, which layers does not list below it", layer.pkg, imported)
			}
		}
	}
}

// TestCoreIsPure: the packages of the core depend on the standard library and on each other alone, and import no package
// of the standard library that does I/O.
func TestCoreIsPure(t *testing.T) {
	core := []string{"report", "render", "conntrack", "nft"}
	forbidden := []string{"io/fs", "io/ioutil", "log", "log/slog", "net", "net/http", "os", "os/exec", "os/signal", "syscall"}
	for _, pkg := range core {
		for _, imported := range goList(t, `{{join .Imports "\n"}}`, module+"/"+pkg) {
			if slices.Contains(forbidden, imported) {
				t.Errorf("package %s imports %s: the core does no I/O", pkg, imported)
			}
		}
		for _, dep := range goList(t, `{{if not .Standard}}{{.ImportPath}}{{end}}`, "-deps", module+"/"+pkg) {
			if !slices.Contains(core, relative(dep)) {
				t.Errorf("package %s depends on %s, which is neither in the core nor in the standard library", pkg, dep)
			}
		}
	}
}

// moduleImports returns, for every package of the module, the packages of the module that it imports, tests excluded.
func moduleImports(t *testing.T) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for _, line := range goList(t, `{{.ImportPath}}{{range .Imports}},{{.}}{{end}}`, module+"/...") {
		pkg, imports, _ := strings.Cut(line, ",")
		all[relative(pkg)] = nil
		for imported := range strings.SplitSeq(imports, ",") {
			if imported == module || strings.HasPrefix(imported, module+"/") {
				all[relative(pkg)] = append(all[relative(pkg)], relative(imported))
			}
		}
	}
	return all
}

// relative returns the path of a package below the module's root, which is ".".
func relative(pkg string) string {
	if pkg == module {
		return "."
	}
	return strings.TrimPrefix(pkg, module+"/")
}

// goList runs go list with a format and returns the words of its output.
func goList(t *testing.T, format string, args ...string) []string {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-f", format}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", args, err, out)
	}
	return strings.Fields(string(out))
}
