package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"nfproxy/render"
)

// asked finds what docs/explain.md shows: commands, and what they print.
var asked = regexp.MustCompile(`(?m)^    \$ (nfproxy explain .*)\n((?:    .*\n|\n)+)`)

// TestExplainDocument: what docs/explain.md shows is what the story has seen.
func TestExplainDocument(t *testing.T) {
	text, err := os.ReadFile("docs/explain.md")
	if err != nil {
		t.Fatal(err)
	}
	story, err := txtar.ParseFile("testdata/explain.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, f := range story.Files {
		files[f.Name] = string(f.Data)
	}
	blocks := strings.ReplaceAll(string(text), "\n    $ ", "\nshown:\n    $ ") // a command ends the output before it
	found := asked.FindAllStringSubmatch(blocks, -1)
	for _, m := range found {
		_, after, ok := strings.Cut(string(story.Comment), m[1]+"\ncmp stdout ")
		name, _, _ := strings.Cut(after, "\n")
		shown := strings.TrimSpace(regexp.MustCompile(`(?m)^    `).ReplaceAllString(m[2], ""))
		if want := strings.TrimSpace(files[name]); !ok || shown != want {
			t.Errorf("%s, in the story as %q, prints\n%s\nand is shown to print\n%s", m[1], name, want, shown)
		}
	}
	if len(found) < 5 {
		t.Errorf("%d commands are shown: this is not how the document is read", len(found))
	}
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
		if got := printable(in); got != want {
			t.Errorf("%q becomes %q", in, got)
		}
	}
}

// TestExplainTextIsPrintable: whatever is in an explanation, its text has no more lines than it should.
func TestExplainTextIsPrintable(t *testing.T) {
	const evil = "\x1b]0;x\x07\nfrom\t%s\x00"
	e := render.Explanation{
		From:     render.ExplainedSource{Interface: evil, Why: evil},
		Service:  &render.ExplainedService{Namespace: evil, Name: evil, Port: evil, Kind: evil, Also: []render.OtherFrontend{{Kind: evil}}},
		Why:      []render.Reason{evil},
		Affinity: &render.ExplainedAffinity{State: "remembered", Endpoint: evil},
		Outcome:  evil,
		Rules:    []render.ExplainedRule{{Chain: evil, Rule: evil, Result: evil}},
		Problems: []string{evil},
		Expected: &render.Expectation{Service: evil, Action: evil, Why: evil, Drift: render.Drift{Changes: 1, First: evil},
			Endpoints: []render.JudgedEndpoint{{Node: evil, Why: evil}}},
	}
	var b strings.Builder
	if err := explainText(&b, e); err != nil {
		t.Fatal(err)
	}
	const lines = 6 + 3 + 3 + 3 // facts, rules, what should be, endpoints; the last three begin with an empty line
	if got := strings.Count(b.String(), "\n"); got != lines || strings.ContainsAny(b.String(), "\x1b\x07\x00\t") {
		t.Errorf("%d lines, not %d: %q", got, lines, b.String())
	}
}

// TestExplainCluster: asked of an API server, with the rights that nfproxy has, explain knows what should be.
func TestExplainCluster(t *testing.T) {
	c := newTestCluster(t)
	c.startAgent()
	eventuallyTrue(t, "the API server is reached by its cluster IP", c.tables("default/kubernetes:https", "192.0.2.10:6443"))
	kubeconfig := c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy"))
	out, err := nfproxy(t, "explain", "--from", "10.244.1.9", "--to", "kubernetes", "--kubeconfig", kubeconfig,
		"--hostname-override", clusterNode, "--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48").CombinedOutput()
	for _, want := range []string{"outcome +sent to 192.0.2.10:6443: ", "should be +default/kubernetes, balance: any endpoint may serve\n",
		"drift +none, the kernel has what it should have\n", "192.0.2.10:6443 +- +yes +the ready endpoints\n"} {
		if !regexp.MustCompile(want).Match(out) || err != nil {
			t.Fatalf("no %q (%v) in\n%s", want, err, out)
		}
	}
}
