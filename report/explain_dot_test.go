package report_test

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// A line of a graph: a string ends at the first quotation mark without a backslash, and has only the escape sequences that the writer
// means.
var dotLine = regexp.MustCompile(`^\t*(?:` + strings.Join([]string{
	`digraph explanation \{`, `subgraph cluster_service \{`, `\}`,
	`\w+ \[` + dotAttribute + `(?:, ` + dotAttribute + `)*\];`,
	`\w+ -> \w+(?: \[` + dotAttribute + `\])?;`,
	`\{ rank=same;(?: \w+;)+ \}`}, "|") + `)$`)

const dotAttribute = `\w+=(?:[\w.]+|"(?:[^"\\\pC]|\\[nl"\\])*")`

// dotOf returns the graph of an explanation, and fails the test if a line of it is malformed or braces are not closed.
func dotOf(t *testing.T, e report.Explanation) string {
	t.Helper()
	var b strings.Builder
	if err := report.WriteExplanationDot(&b, e); err != nil {
		t.Fatal(err)
	}
	open := 0
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if !dotLine.MatchString(line) {
			t.Fatalf("malformed line %q in\n%s", line, b.String())
		}
		switch {
		case strings.HasSuffix(line, "{"):
			open++
		case strings.Trim(line, "\t") == "}":
			open--
		}
	}
	if open != 0 {
		t.Fatalf("%d braces are not closed in\n%s", open, b.String())
	}
	return b.String()
}

// FuzzExplainDot: whatever the names are, the graph is well-formed, and the same explanation results in the same graph.
func FuzzExplainDot(f *testing.F) {
	for _, text := range []string{"default/web", `"`, `\`, `\N\G\l`, "a\nb\tc\x00", "&lt;&#34;", "<b>{x|y}</b>", "\xff\u202e", strings.Repeat("long ", 80), ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := hostileExplanation(text)
		if one, other := dotOf(t, e), dotOf(t, e); one != other {
			t.Errorf("first\n%s\nthen\n%s", one, other)
		}
	})
}

// hostileExplanation has a text wherever it has one from the kernel or a cluster, except for the names of chains.
func hostileExplanation(text string) report.Explanation {
	addr := netip.MustParseAddr("10.0.0.1")
	return report.Explanation{From: report.Source{Address: addr, Interface: text, Why: text}, To: report.Destination{Address: addr, Port: 80, Protocol: "TCP"},
		Service:  &report.ReachedPort{Namespace: text, Name: text, Port: text, Kind: render.Kind(text), Also: []report.OtherFrontend{{Address: addr, Port: 80, Kind: render.Kind(text)}}},
		Outcome:  report.Outcome(text),
		Why:      []render.Reason{render.Reason(text)},
		Affinity: &report.Affinity{State: "remembered", Endpoint: text},
		Problems: []string{text},
		Expected: &report.Expectation{Drift: report.Drift{Changes: 1, First: text},
			Endpoints: []report.JudgedEndpoint{{Address: addr, Port: 80, Node: text, Why: render.Reason(text)}}}}
}

// TestExplainDotAnything: tables that other programs changed result in well-formed graphs too.
func TestExplainDotAnything(t *testing.T) {
	u := mixedServices()
	for _, name := range []string{"odd", `"]; evil -> node; x [label="`, "a\\", "\x1b[2J\n}"} {
		tables := build(t, u)
		table := tables[0]
		table.Chain("dispatch").Rules = append([]nft.Rule{{Do: nft.GotoChain(name)}}, table.Chain("dispatch").Rules...)
		table.Chains = append(table.Chains, &nft.Chain{Table: table.TableID, Name: name, Rules: []nft.Rule{{Do: nft.Opaque{Text: name}}}})
		for _, p := range explainedPackets() {
			dot := dotOf(t, report.Explain(tables, report.Query{Packet: p, Desired: &u}))
			if p.Hook == nft.Prerouting && !strings.Contains(dot, `label="chain `+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(strings.Split(report.Printable(name), " ")[0])) {
				t.Errorf("no chain %q in\n%s", name, dot)
			}
		}
	}
}

// TestExplainDotPaths: endpoints whose connections pass different chains are drawn after these, with their shares.
func TestExplainDotPaths(t *testing.T) {
	u := mixedServices()
	tables := build(t, u)
	e := report.Explain(tables, report.Query{Packet: nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: netip.MustParseAddrPort("10.244.1.2:0"),
		Destination: netip.MustParseAddrPort("10.96.0.1:80")}})
	dot := dotOf(t, e)
	ends := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(chain\d+) -> endpoint\d+ \[label="1/3, 33.33 %"\];`).FindAllStringSubmatch(dot, -1) {
		ends[m[1]] = true
	}
	if len(ends) != 2 || strings.Count(dot, " -> endpoint") != 3 {
		t.Errorf("the paths of a client that is one of the endpoints do not differ from those to the others:\n%s", dot)
	}
}

// TestExplainDotIsBounded: of many endpoints some are drawn, and the others together.
func TestExplainDotIsBounded(t *testing.T) {
	s := service("large", "10.96.0.1:80")
	for i := range 500 {
		s.Ports[0].Endpoints = append(s.Ports[0].Endpoints, render.Endpoint{Ready: i%2 == 0,
			AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i / 250), byte(1 + i%250)}), 8080)})
	}
	u := render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{s}}
	dot := dotOf(t, report.Explain(build(t, u), report.Query{Desired: &u, Packet: nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP,
		Source: netip.MustParseAddrPort("10.0.9.9:0"), Destination: netip.MustParseAddrPort("10.96.0.1:80")}}))
	for _, want := range []string{`"238 more endpoints"`, ` -> endpoints [label="95.2 %"];`, `"238 more that are not reached"`} {
		if !strings.Contains(dot, want) {
			t.Errorf("no %s in\n%s", want, dot)
		}
	}
	if n := strings.Count(dot, "\n"); n > 80 {
		t.Errorf("%d lines for %s", n, fmt.Sprint(len(s.Ports[0].Endpoints), " endpoints"))
	}
}
