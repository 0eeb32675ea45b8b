package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// TestBehaviourNamesEveryField: docs/behaviour.md has a row for every field of a Service's spec and status and of an
// EndpointSlice, or for a field that contains it.
func TestBehaviourNamesEveryField(t *testing.T) {
	text := readDocument(t, "../docs/behaviour.md")
	for _, c := range []struct {
		section string
		types   map[string]reflect.Type
	}{
		{"v1 Service", map[string]reflect.Type{"spec": reflect.TypeFor[corev1.ServiceSpec](), "status": reflect.TypeFor[corev1.ServiceStatus]()}},
		{"discovery.k8s.io/v1 EndpointSlice", map[string]reflect.Type{"": reflect.TypeFor[discoveryv1.EndpointSlice]()}},
	} {
		_, section, ok := strings.Cut(text, "\n## "+c.section+"\n")
		if !ok {
			t.Fatalf("docs/behaviour.md has no section %q", c.section)
		}
		section, _, _ = strings.Cut(section, "\n## ")
		for name, typ := range c.types {
			for _, path := range fieldsOf(typ, name) {
				if !slices.ContainsFunc(containingFields(path), func(p string) bool { return strings.Contains(section, "`"+p+"`") }) {
					t.Errorf("docs/behaviour.md, section %q, has no row for %s", c.section, path)
				}
			}
		}
	}
}

// fieldsOf returns the paths of the fields in a type, with their names in JSON. A type of another package is one field.
func fieldsOf(typ reflect.Type, path string) []string {
	switch typ.Kind() {
	case reflect.Pointer:
		return fieldsOf(typ.Elem(), path)
	case reflect.Slice:
		return fieldsOf(typ.Elem(), path+"[]")
	case reflect.Struct:
	default:
		return []string{path}
	}
	if p := typ.PkgPath(); path != "" && p != "k8s.io/api/core/v1" && p != "k8s.io/api/discovery/v1" {
		return []string{path}
	}
	var all []string
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "metadata" {
			continue
		}
		all = append(all, fieldsOf(f.Type, strings.TrimPrefix(path+"."+name, "."))...)
	}
	return all
}

// containingFields returns a field and the fields that contain it.
func containingFields(path string) []string {
	all := []string{path, strings.TrimSuffix(path, "[]")}
	for i, r := range path {
		if r == '.' && path[:i] != "spec" && path[:i] != "status" {
			all = append(all, path[:i], strings.TrimSuffix(path[:i], "[]"))
		}
	}
	return all
}

var (
	quoted      = regexp.MustCompile("`([^`\n]+)`")
	testName    = regexp.MustCompile(`^(?:Test|Fuzz|Benchmark)[A-Z]\w*$`)
	fileName    = regexp.MustCompile(`^[\w/*-]+\.(?:go|txtar)$`)
	scenarios   = regexp.MustCompile("\\bscenarios?((?:,? (?:and )?`[^`]+`)+)") // files of render/testdata
	declaration = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)\w+)\(`)
)

// TestDocumentsNameWhatThereIs: the tests, Go and txtar files and scenarios that the documents name exist.
func TestDocumentsNameWhatThereIs(t *testing.T) {
	tests := make(map[string]bool)
	for _, pattern := range []string{"../*/*_test.go", "../*/*/*_test.go", "../*/*/*/*_test.go"} {
		for _, file := range glob(t, pattern) {
			for _, match := range declaration.FindAllStringSubmatch(readDocument(t, file), -1) {
				tests[match[1]] = true
			}
		}
	}
	count := 0
	for _, document := range slices.Concat(glob(t, "../*.md"), glob(t, "../docs/*.md"), glob(t, "../docs/*/*.md")) {
		text := readDocument(t, document)
		for _, match := range quoted.FindAllStringSubmatch(text, -1) {
			name := match[1]
			find := func() []string {
				return slices.Concat(glob(t, "../"+name), glob(t, "../*/"+name), glob(t, "../*/*/"+name))
			}
			missingTest := testName.MatchString(name) && !tests[name]
			missingFile := fileName.MatchString(name) && !strings.HasPrefix(name, "pkg/proxy/") && len(find()) == 0
			if missingTest || missingFile {
				t.Errorf("%s names %s, which does not exist", document, name)
			}
			count++
		}
		for _, match := range scenarios.FindAllStringSubmatch(text, -1) {
			for _, name := range quoted.FindAllStringSubmatch(match[1], -1) {
				if !testName.MatchString(name[1]) && len(glob(t, "../render/testdata/"+name[1]+".txtar")) == 0 {
					t.Errorf("%s names render/testdata/%s.txtar, which does not exist", document, name[1])
				}
			}
		}
	}
	if count < 100 {
		t.Errorf("found %d names, want at least 100: the test does not read the documents correctly", count)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func readDocument(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// warnings matches the calls that log warnings and errors.
var warnings = regexp.MustCompile(`(?:\blog\.(?:Warn|Error)\(|slog\.Level(?:Warn|Error), )"([^"]+)"`)

// TestOperatingNamesEveryWarning: docs/operating.md says what to do about every warning and error in the log.
func TestOperatingNamesEveryWarning(t *testing.T) {
	text := readDocument(t, "../docs/operating.md")
	found := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range warnings.FindAllStringSubmatch(string(source), -1) {
			if found++; !strings.Contains(text, "`"+m[1]+"`") {
				t.Errorf("%s logs %q, which docs/operating.md does not explain", path, m[1])
			}
		}
		return err
	})
	if err != nil || found < 10 {
		t.Errorf("found %d warnings, want at least 10: %v", found, err)
	}
}
