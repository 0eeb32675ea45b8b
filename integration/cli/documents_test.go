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

// commandBlock matches a command in a document, and its output.
var commandBlock = regexp.MustCompile(`(?m)^    \$ (nfproxy .*)\n((?:    .*\n|\n)+)`)

// TestDocumentsShowOutput: every output in the documents is the output of the same command in a scenario.
func TestDocumentsShowOutput(t *testing.T) {
	seen := outputs(t)
	for name, least := range map[string]int{"explain": 5, "troubleshooting": 8} {
		text, err := os.ReadFile("docs/" + name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.ReplaceAll(string(text), "\n    $ ", "\nshown:\n    $ ") // a command ends the previous output
		found := commandBlock.FindAllStringSubmatch(blocks, -1)
		for _, m := range found {
			shown := strings.TrimSpace(regexp.MustCompile(`(?m)^    `).ReplaceAllString(m[2], ""))
			if !slices.Contains(seen[m[1]], shown) {
				t.Errorf("docs/%s.md: the output of %s is\n%s\nbut in the scenarios\n%s", name, m[1], shown, strings.Join(seen[m[1]], "\nor\n"))
			}
		}
		if len(found) < least {
			t.Errorf("docs/%s.md has only %d commands: the test does not parse the document correctly", name, len(found))
		}
	}
}

// outputs returns the outputs of the commands in the scenarios, where the whole output is compared.
func outputs(t *testing.T) map[string][]string {
	t.Helper()
	scenarios, err := filepath.Glob("integration/cli/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string][]string)
	for _, path := range scenarios {
		scenario, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files := make(map[string]string)
		for _, f := range scenario.Files {
			files[f.Name] = strings.TrimSpace(string(f.Data))
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:! )?(nfproxy .*)\ncmp stdout (\S+)$`).FindAllStringSubmatch(string(scenario.Comment), -1) {
			seen[m[1]] = append(seen[m[1]], files[m[2]])
		}
	}
	return seen
}
