package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/goproxytest"
)

const wanted = `=== example.com/one v1.2.3 ===

--- LICENSE ---

the licence of one

--- NOTICE.txt ---

the notice of one

--- copied/LICENSE ---

the licence of what was copied

=== example.com/two v1.0.0 ===

--- Licence.md ---

the licence of two
`

// TestLicences: the output has the licences of the modules in the binary and of Go, and no others.
func TestLicences(t *testing.T) {
	useTestModules(t)
	buildProgram(t, "v1.0.0")
	var out bytes.Buffer
	if err := run(&out, []string{"program", "program"}); err != nil {
		t.Fatal(err)
	}
	ofGo, rest, _ := strings.Cut(out.String(), "=== example.com/one ")
	if diff := cmp.Diff(wanted, "=== example.com/one "+rest); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !strings.HasPrefix(ofGo, "=== Go 1.") || !strings.Contains(ofGo, "Copyright 2009 The Go Authors.") {
		t.Errorf("the section of Go is %q", ofGo)
	}
}

// TestNoLicence: a module with a notice but without a licence in its root is an error that names the module.
func TestNoLicence(t *testing.T) {
	useTestModules(t)
	buildProgram(t, "v1.1.0")
	failsWith(t, "program: example.com/two v1.1.0 has no licence file in its root")
}

// TestAnotherBuild: a go.mod that requires another version than the binary contains is an error.
func TestAnotherBuild(t *testing.T) {
	useTestModules(t)
	buildProgram(t, "v1.0.0")
	writeGoMod(t, "v1.1.0")
	failsWith(t, "program: the binary does not contain example.com/two v1.1.0, but a build here would")
}

// failsWith fails the test unless run returns this error and prints nothing.
func failsWith(t *testing.T, message string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(&out, []string{"program"}); err == nil || err.Error() != message || out.Len() > 0 {
		t.Errorf("error %v with %d bytes of output, not %q", err, out.Len(), message)
	}
}

// useTestModules makes the go command take modules from testdata alone.
func useTestModules(t *testing.T) {
	t.Helper()
	directory, err := filepath.Abs("testdata/modules")
	if err != nil {
		t.Fatal(err)
	}
	server, err := goproxytest.NewServer(directory, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	for name, value := range map[string]string{"GOPROXY": server.URL, "GONOPROXY": "none", "GOSUMDB": "off", "GOWORK": "off",
		"GOFLAGS": "-mod=mod -modcacherw", "GOMODCACHE": t.TempDir(), "GOTOOLCHAIN": "local"} {
		t.Setenv(name, value)
	}
	t.Chdir(t.TempDir())
}

// buildProgram builds ./program with a version of the module two.
func buildProgram(t *testing.T, two string) {
	t.Helper()
	const program = `package main

import (
	_ "example.com/one"
	_ "example.com/two"
)

func main() {}
`
	if err := os.WriteFile("main.go", []byte(program), 0o644); err != nil {
		t.Fatal(err)
	}
	writeGoMod(t, two)
	if out, err := exec.Command("go", "build", "-o", "program", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// writeGoMod writes a go.mod that requires a version of the module two.
func writeGoMod(t *testing.T, two string) {
	t.Helper()
	text := "module program\n\ngo 1.26\n\nrequire (\n\texample.com/one v1.2.3\n\texample.com/two " + two + "\n)\n"
	if err := os.WriteFile("go.mod", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
