package cli

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

const (
	dataPlaneDocument = "docs/data-plane.md"
	dataPlaneScenario = "integration/cli/testdata/data-plane.txtar"
)

// shown is a block of a document: a manifest, or a command and its output.
type shown struct{ command, text string }

// TestDataPlaneDocument: the blocks of the document are the manifests, commands and outputs of the scenario, in the same order.
// -update rewrites manifests and outputs, but not the order and the commands.
func TestDataPlaneDocument(t *testing.T) {
	text, err := os.ReadFile(dataPlaneDocument)
	if err != nil {
		t.Fatal(err)
	}
	played := dataPlanePlayed(t)
	var rewritten strings.Builder
	for _, p := range passages(string(text)) {
		if !p.shows {
			rewritten.WriteString(p.text)
			continue
		}
		is := p.shown()
		if len(played) == 0 {
			t.Fatalf("%s has a block that is not in the scenario: %q", dataPlaneDocument, is)
		}
		if is.command != played[0].command {
			t.Fatalf("%s has the block %q, but the scenario continues with %q", dataPlaneDocument, is, played[0])
		}
		if is != played[0] && !*update {
			t.Errorf("%s: %s\n%s\nwant\n%s", dataPlaneDocument, is.command, is.text, played[0].text)
		}
		rewritten.WriteString(p.with(played[0]))
		played = played[1:]
	}
	if len(played) > 0 {
		t.Fatalf("%s has no block %q", dataPlaneDocument, played[0])
	}
	if *update {
		if err := os.WriteFile(dataPlaneDocument, []byte(rewritten.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadmeShowsDataPlane: the rules and elements in the README are in the document, too.
func TestReadmeShowsDataPlane(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	document, err := os.ReadFile(dataPlaneDocument)
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(readme), "\n    $ nfproxy dump")
	block, _, _ := strings.Cut(after, "\n\n")
	if !found || !strings.Contains(string(document), "\n    $ nfproxy dump"+block+"\n\n") {
		t.Errorf("README.md has a block that %s has not:%s", dataPlaneDocument, block)
	}
}

var scenarioStep = regexp.MustCompile(`(?m)^cp (\S+) manifests/|^env (.*)$|^exec (sed .*)$|^(?:! )?(nfproxy .*)\ncmp stdout (\S+)$`)

// dataPlanePlayed returns the blocks that the scenario implies: manifests copied into the directory, variables, edits, and
// commands whose whole output is compared.
func dataPlanePlayed(t *testing.T) []shown {
	t.Helper()
	scenario, err := txtar.ParseFile(dataPlaneScenario)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range scenario.Files {
		files[f.Name] = strings.ReplaceAll(strings.TrimSpace(string(f.Data)), "\t", "    ")
	}
	var all []shown
	for _, m := range scenarioStep.FindAllStringSubmatch(string(scenario.Comment), -1) {
		switch manifest, variable, edit, command, output := m[1], m[2], m[3], m[4], m[5]; {
		case manifest != "":
			all = append(all, shown{text: files[manifest]})
		case variable != "":
			all = append(all, shown{command: "export " + variable})
		case edit != "":
			all = append(all, shown{command: edit})
		default:
			all = append(all, shown{command, withoutRepetition(files[output])})
		}
	}
	return all
}

// withoutRepetition replaces all but the first of equal lines that follow each other with their number.
func withoutRepetition(text string) string {
	var kept []string
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); {
		same := 1
		for i+same < len(lines) && lines[i+same] == lines[i] {
			same++
		}
		if kept = append(kept, lines[i]); same > 2 {
			kept = append(kept, fmt.Sprintf("# the same %d more times", same-1))
		} else if same == 2 {
			kept = append(kept, lines[i])
		}
		i += same
	}
	return strings.Join(kept, "\n")
}

// passage is a part of a document: an indented block, or the text between blocks.
type passage struct {
	text  string
	shows bool
}

// passages divides a document. A command begins a new block. Empty lines belong to the passage before them.
func passages(document string) []passage {
	var all []passage
	for line := range strings.Lines(document) {
		shows := strings.HasPrefix(line, "    ")
		last := len(all) - 1
		if last >= 0 && (line == "\n" || shows == all[last].shows && !strings.HasPrefix(line, "    $ ")) {
			all[last].text += line
			continue
		}
		all = append(all, passage{line, shows})
	}
	return all
}

// shown parses a block.
func (p passage) shown() shown {
	text := strings.TrimRight(strings.ReplaceAll("\n"+p.text, "\n    ", "\n")[1:], "\n")
	if command, ok := strings.CutPrefix(text, "$ "); ok {
		command, text, _ = strings.Cut(command, "\n")
		return shown{command, text}
	}
	return shown{text: text}
}

// with returns the block with other content.
func (p passage) with(s shown) string {
	text := s.text
	if s.command != "" {
		text = strings.TrimRight("$ "+s.command+"\n"+s.text, "\n")
	}
	indented := strings.ReplaceAll(strings.ReplaceAll("\n"+text, "\n", "\n    "), "\n    \n", "\n\n")[1:]
	return indented + p.text[len(strings.TrimRight(p.text, "\n")):]
}
