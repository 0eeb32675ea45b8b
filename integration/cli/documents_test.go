package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"nfproxy/render"

	"nfproxy/report"
)

// asked finds what a document shows: commands, and what they print.
var asked = regexp.MustCompile(`(?m)^    \$ (nfproxy .*)\n((?:    .*\n|\n)+)`)

// TestDocumentsShowOutput: what documents show that a command prints, a story has seen it print.
func TestDocumentsShowOutput(t *testing.T) {
	seen := outputs(t)
	for name, least := range map[string]int{"explain": 5, "troubleshooting": 8} {
		text, err := os.ReadFile("docs/" + name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.ReplaceAll(string(text), "\n    $ ", "\nshown:\n    $ ") // a command ends the output before it
		found := asked.FindAllStringSubmatch(blocks, -1)
		for _, m := range found {
			shown := strings.TrimSpace(regexp.MustCompile(`(?m)^    `).ReplaceAllString(m[2], ""))
			if !slices.Contains(seen[m[1]], shown) {
				t.Errorf("docs/%s.md: %s is shown to print\n%s\nand prints, in stories,\n%s", name, m[1], shown, strings.Join(seen[m[1]], "\nor\n"))
			}
		}
		if len(found) < least {
			t.Errorf("docs/%s.md shows %d commands: this is not how the document is read", name, len(found))
		}
	}
}

// outputs are what commands print in the stories, where it is compared as a whole.
func outputs(t *testing.T) map[string][]string {
	t.Helper()
	stories, err := filepath.Glob("integration/cli/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string][]string)
	for _, path := range stories {
		story, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files := make(map[string]string)
		for _, f := range story.Files {
			files[f.Name] = strings.TrimSpace(string(f.Data))
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:! )?(nfproxy .*)\ncmp stdout (\S+)$`).FindAllStringSubmatch(string(story.Comment), -1) {
			seen[m[1]] = append(seen[m[1]], files[m[2]])
		}
	}
	return seen
}

// TestPrintable: nothing that the kernel or a cluster says can act on a terminal, or look like more lines or cells.
func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"default/web:http":      "default/web:http",
		"Grüße, 世界":             "Grüße, 世界",
		"\x1b[2J\r\n\tx":        `\x1b[2J\r\n\tx`,
		"%s%n%!d(BADFORMAT)":    "%s%n%!d(BADFORMAT)",
		"a\u202eb\u200bc\u009b": `a\u202eb\u200bc\u009b`,
		"\xff\xfe":              `\xff\xfe`,
		"\ufffd":                "\ufffd",
	} {
		if got := report.Printable(in); got != want {
			t.Errorf("%q becomes %q", in, got)
		}
	}
}

// TestExplainTextIsPrintable: whatever is in an explanation, its text has no more lines than it should.
func TestExplainTextIsPrintable(t *testing.T) {
	const evil = "\x1b]0;x\x07\nfrom\t%s\x00"
	e := report.Explanation{
		From:     report.Source{Interface: evil, Why: evil},
		Service:  &report.ReachedPort{Namespace: evil, Name: evil, Port: evil, Kind: evil, Also: []report.OtherFrontend{{Kind: evil}}},
		Why:      []render.Reason{evil},
		Affinity: &report.Affinity{State: "remembered", Endpoint: evil},
		Outcome:  evil,
		Rules:    []report.Rule{{Chain: evil, Rule: evil, Result: evil}},
		Problems: []string{evil},
		Expected: &report.Expectation{Service: evil, Action: evil, Why: evil, Drift: report.Drift{Changes: 1, First: evil},
			Endpoints: []report.JudgedEndpoint{{Node: evil, Why: evil}}},
	}
	var b strings.Builder
	if err := report.WriteExplanation(&b, e); err != nil {
		t.Fatal(err)
	}
	const lines = 6 + 3 + 3 + 3 // facts, rules, what should be, endpoints; the last three begin with an empty line
	if got := strings.Count(b.String(), "\n"); got != lines || strings.ContainsAny(b.String(), "\x1b\x07\x00\t") {
		t.Errorf("%d lines, not %d: %q", got, lines, b.String())
	}
}
