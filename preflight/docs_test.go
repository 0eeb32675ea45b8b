package preflight

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	lineCall       = regexp.MustCompile(`\b(ok|warning|problem)\((?:"([^"]+)"|p\.Name), "([^"]+)"`)
	formatVerb     = regexp.MustCompile(`%[a-z]`)
	documentedLine = regexp.MustCompile("(?m)^\\| (ok|warning|problem) \\| ([^|]+) \\| `([^`]+)` \\| ")
)

// TestDocumentedLines: docs/check.md lists exactly the lines that the checks can return.
func TestDocumentedLines(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, m := range lineCall.FindAllStringSubmatch(read(t, file), -1) {
			if m[2] == "" {
				m[2] = "a probe"
			}
			want = append(want, m[1]+" "+m[2]+": "+formatVerb.ReplaceAllString(m[3], "…"))
		}
	}
	var got []string
	for _, m := range documentedLine.FindAllStringSubmatch(read(t, "../docs/check.md"), -1) {
		got = append(got, m[1]+" "+m[2]+": "+m[3])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 50 {
		t.Errorf("docs/check.md, %d lines (-code +document):\n%s", len(want), diff)
	}
}

// TestDocumentedProbes: docs/check.md lists exactly the probes, in order, with what they need.
func TestDocumentedProbes(t *testing.T) {
	var want strings.Builder
	for _, p := range Probes(true) {
		for _, cell := range []string{p.Name, strings.Join(p.Options, ", "), strings.Join(p.Modules, ", "), p.Since} {
			want.WriteString(strings.TrimRight("| "+cell, " ") + " ")
		}
		want.WriteString("|\n")
	}
	_, got, _ := strings.Cut(read(t, "../docs/check.md"), "\n| probe | needs | module | since |\n|---|---|---|---|\n")
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("docs/check.md (-code +document):\n%s", diff)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
