package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
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
