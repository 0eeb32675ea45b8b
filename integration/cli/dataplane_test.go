package cli

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

const (
	dataPlaneDocument = "docs/data-plane.md"
	dataPlaneStory    = "integration/cli/testdata/data-plane.txtar"
)

// shown is one thing that a document shows: a manifest, or a command and what it prints.
type shown struct{ command, text string }

// TestDataPlaneDocument: the document is the story, manifest by manifest and command by command, in the same order, and
// shows nothing else. -update rewrites what it shows; the order and the commands are its author's.
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
			t.Fatalf("%s shows what the story does not play: %q", dataPlaneDocument, is)
		}
		if is.command != played[0].command {
			t.Fatalf("%s shows %q, and the story goes on with %q", dataPlaneDocument, is, played[0])
		}
		if is != played[0] && !*update {
			t.Errorf("%s: %s\n%s\nand is\n%s", dataPlaneDocument, is.command, is.text, played[0].text)
		}
		rewritten.WriteString(p.with(played[0]))
		played = played[1:]
	}
	if len(played) > 0 {
		t.Fatalf("%s does not show %q", dataPlaneDocument, played[0])
	}
	if *update {
		if err := os.WriteFile(dataPlaneDocument, []byte(rewritten.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadmeShowsDataPlane: what the README shows of rules and elements stands in the document.
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
		t.Errorf("README.md shows what %s does not:%s", dataPlaneDocument, block)
	}
}

var aStep = regexp.MustCompile(`(?m)^cp (\S+) manifests/|^env (.*)$|^exec (sed .*)$|^(?:! )?(nfproxy .*)\ncmp stdout (\S+)$`)

// dataPlanePlayed is what the story shows: manifests that are put into the directory, variables, edits, and commands whose
// output is compared as a whole.
func dataPlanePlayed(t *testing.T) []shown {
	t.Helper()
	story, err := txtar.ParseFile(dataPlaneStory)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range story.Files {
		files[f.Name] = strings.ReplaceAll(strings.TrimSpace(string(f.Data)), "\t", "    ")
	}
	var all []shown
	for _, m := range aStep.FindAllStringSubmatch(string(story.Comment), -1) {
		switch manifest, variable, edit, command, output := m[1], m[2], m[3], m[4], m[5]; {
		case manifest != "":
			all = append(all, shown{text: files[manifest]})
		case variable != "":
			all = append(all, shown{command: "export " + variable})
		case edit != "":
			all = append(all, shown{command: edit})
		default:
			all = append(all, shown{command, files[output]})
		}
	}
	return all
}

// passage is a part of a document: an indented block, which shows something, or what stands between blocks.
type passage struct {
	text  string
	shows bool
}

// passages divides a document. A command begins a block, whatever is before it; empty lines belong to what they follow.
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

// shown is what the block shows.
func (p passage) shown() shown {
	text := strings.TrimRight(strings.ReplaceAll("\n"+p.text, "\n    ", "\n")[1:], "\n")
	if command, ok := strings.CutPrefix(text, "$ "); ok {
		command, text, _ = strings.Cut(command, "\n")
		return shown{command, text}
	}
	return shown{text: text}
}

// with is the block if it shows something else.
func (p passage) with(s shown) string {
	text := s.text
	if s.command != "" {
		text = strings.TrimRight("$ "+s.command+"\n"+s.text, "\n")
	}
	indented := strings.ReplaceAll(strings.ReplaceAll("\n"+text, "\n", "\n    "), "\n    \n", "\n\n")[1:]
	return indented + p.text[len(strings.TrimRight(p.text, "\n")):]
}
