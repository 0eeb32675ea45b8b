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

// TestLicences: of a program built of the modules in testdata, the licences of what is in it, and of nothing else.
func TestLicences(t *testing.T) {
	modules(t)
	build(t, "v1.0.0")
	var out bytes.Buffer
	if err := run(&out, []string{"program", "program"}); err != nil {
		t.Fatal(err)
	}
	ofGo, rest, _ := strings.Cut(out.String(), "=== example.com/one ")
	if diff := cmp.Diff(wanted, "=== example.com/one "+rest); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !strings.HasPrefix(ofGo, "=== Go 1.") || !strings.Contains(ofGo, "Copyright 2009 The Go Authors.") {
		t.Errorf("no licence of Go, but %q", ofGo)
	}
}

// TestNoLicence: a module with a notice and no licence of its own is an error that names it, and nothing is printed.
func TestNoLicence(t *testing.T) {
	modules(t)
	build(t, "v1.1.0")
	refused(t, "program: example.com/two v1.1.0 has no licence in its root")
}

// TestAnotherBuild: go.mod asks for another version than the binary has.
func TestAnotherBuild(t *testing.T) {
	modules(t)
	build(t, "v1.0.0")
	require(t, "v1.1.0")
	refused(t, "program: has no example.com/two v1.1.0, which it would be built of here")
}

func refused(t *testing.T, why string) {
	t.Helper()
	var out bytes.Buffer
	if err := run(&out, []string{"program"}); err == nil || err.Error() != why || out.Len() > 0 {
		t.Errorf("error %v with %d bytes of output, not %q", err, out.Len(), why)
	}
}

// modules has go take modules from testdata, and none from elsewhere.
func modules(t *testing.T) {
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

// build makes ./program with a version of two.
func build(t *testing.T, two string) {
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
	require(t, two)
	if out, err := exec.Command("go", "build", "-o", "program", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func require(t *testing.T, two string) {
	t.Helper()
	text := "module program\n\ngo 1.26\n\nrequire (\n\texample.com/one v1.2.3\n\texample.com/two " + two + "\n)\n"
	if err := os.WriteFile("go.mod", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
