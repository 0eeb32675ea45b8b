package report_test

import (
	"strings"
	"testing"

	"nfproxy/render"
	"nfproxy/report"
)

// TestPrintable: text from the kernel or a cluster cannot control a terminal, nor look like further lines or cells.
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

// TestExplainTextIsPrintable: whatever text an explanation contains, it is printed with the right number of lines.
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
	const lines = 6 + 3 + 3 + 3 // facts, rules, expectation, endpoints; the last three begin with an empty line
	if got := strings.Count(b.String(), "\n"); got != lines || strings.ContainsAny(b.String(), "\x1b\x07\x00\t") {
		t.Errorf("%d lines, want %d: %q", got, lines, b.String())
	}
}
