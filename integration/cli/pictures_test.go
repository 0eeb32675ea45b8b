package cli

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/tools/txtar"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestExplainPictures: docs/pictures has a picture of every graph in the scenarios, drawn from the graph as it is now. What the picture
// says is compared, not where: that depends on the version of Graphviz. With -update the pictures are drawn.
func TestExplainPictures(t *testing.T) {
	graphs := graphs(t)
	for _, name := range slices.Sorted(maps.Keys(graphs)) {
		path := pictureOf(name)
		drawn := draw(t, graphs[name])
		if *update {
			if err := os.WriteFile(path, picture(name, graphs[name], drawn), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		shown, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: run make pictures", err)
		}
		source, texts := readSVG(t, shown)
		if bytes.Contains(shown, []byte("href=")) {
			t.Errorf("%s refers to another resource", path)
		}
		if source != graphs[name] {
			t.Errorf("%s shows another graph than want/%s.dot of the scenario: run make pictures", path, name)
		}
		if _, want := readSVG(t, drawn); !slices.Equal(texts, want) {
			t.Errorf("%s has the texts\n%q\nwant\n%q\nrun make pictures", path, texts, want)
		}
	}
	shown, err := filepath.Glob(pictureOf("*"))
	if err != nil || len(graphs) < 4 {
		t.Fatalf("%d graphs, want at least 4: %v", len(graphs), err)
	}
	for _, path := range shown {
		if name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "explain-"), ".svg"); graphs[name] == "" {
			t.Errorf("%s: no scenario has want/%s.dot", path, name)
		}
	}
}

func pictureOf(name string) string { return "docs/pictures/explain-" + name + ".svg" }

// graphs returns the graphs that the scenarios want, by name.
func graphs(t *testing.T) map[string]string {
	t.Helper()
	scenarios, err := filepath.Glob("integration/cli/testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, path := range scenarios {
		scenario, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range scenario.Files {
			if name, ok := strings.CutSuffix(strings.TrimPrefix(f.Name, "want/"), ".dot"); ok {
				all[name] = string(f.Data)
			}
		}
	}
	return all
}

// draw returns a graph as SVG.
func draw(t *testing.T, graph string) []byte {
	t.Helper()
	cmd := exec.Command("dot", "-Tsvg")
	var complaints strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(graph), &complaints
	svg, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%v: run make tools", err)
	}
	if text := complaints.String(); err != nil || strings.Contains(text, "Warning: ") || strings.Contains(text, "Error: ") {
		t.Fatalf("%v: %s for\n%s", err, complaints.String(), graph)
	}
	return svg
}

// picture returns a drawing as a document that needs no other resource: with a title, and with its graph as metadata.
func picture(name, graph string, drawn []byte) []byte {
	_, svg, _ := bytes.Cut(drawn, []byte("<svg "))
	attributes, content, _ := bytes.Cut(svg, []byte(">\n"))
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg role=\"img\" %s>\n<title>nfproxy explain: %s</title>\n<metadata>", attributes, name)
	xml.EscapeText(&b, []byte(graph)) // never fails
	b.WriteString("</metadata>\n")
	b.Write(content)
	return b.Bytes()
}

// readSVG returns the metadata of a picture, and what it says: its texts and the titles of its nodes and edges, in order of the alphabet.
func readSVG(t *testing.T, svg []byte) (metadata string, texts []string) {
	t.Helper()
	var path []string
	group := 0
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			slices.Sort(texts)
			return metadata, texts
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if path = append(path, token.Name.Local); token.Name.Local == "g" {
				group++
			}
		case xml.EndElement:
			path = path[:len(path)-1]
		case xml.CharData:
			switch in := path[max(len(path)-1, 0):]; {
			case len(in) == 0:
			case in[0] == "metadata":
				metadata += string(token)
			case in[0] == "text", in[0] == "title" && group > 0:
				texts = append(texts, in[0]+" "+plainSpaces(string(token)))
			}
		}
	}
}

// plainSpaces replaces all kinds of spaces by the usual one: versions of Graphviz differ in what they write for leading spaces.
func plainSpaces(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		return r
	}, text)
}

// hostileNames are names that would end a string, a line or a label, or that Graphviz would replace.
var hostileNames = []string{`"`, `\`, `\\"`, `a\`, `\N \G \L \E \T \H`, `\n\l\r`, "new\nline", "&", "&amp;", "&lt;b&gt;", "&#34;", "&bogus", "<b>bold</b>", "{a|b}",
	"]; evil -> node [", "//", "/* */", "#if", "%s", "\x1b[2J", "\xff", "\u202eright to left", "Grüße, 世界", "]]>", strings.Repeat("long-", 100), strings.Repeat("& \" ", 50), "", " "}

// TestDotReadsGraphs: Graphviz reads the graph of every explanation, and shows each name as it is.
func TestDotReadsGraphs(t *testing.T) {
	for _, name := range hostileNames {
		e := hostileExplanation(name)
		var b strings.Builder
		if err := report.WriteExplanationDot(&b, e); err != nil {
			t.Fatal(err)
		}
		_, texts := readSVG(t, draw(t, b.String()))
		said := squeeze(strings.ReplaceAll(strings.Join(texts, ""), "text ", ""))
		if want := squeeze(report.Printable(name)); !strings.Contains(said, want) {
			t.Errorf("%q is not in the picture:\n%s\nof\n%s", name, said, b.String())
		}
		titles := slices.DeleteFunc(texts, func(s string) bool { return !strings.HasPrefix(s, "title ") })
		if got := strings.ReplaceAll(strings.Join(titles, " "), "title ", ""); got != wantTitles {
			t.Errorf("%q: the nodes and edges are\n%s\nwant\n%s", name, got, wantTitles)
		}
	}
}

// wantTitles are the nodes and edges of every hostileExplanation, as Graphviz names them.
const wantTitles = "chain1 chain1->chain2 chain2 chain2->outcome client client->frontend cluster_service explanation frontend frontend->chain1 outcome remarks"

// squeeze removes spaces: labels are broken there.
func squeeze(text string) string { return strings.ReplaceAll(plainSpaces(text), " ", "") }

// hostileExplanation explains a connection to a Service of some name, in whose tables a chain has this name, too.
func hostileExplanation(name string) report.Explanation {
	frontend := netip.MustParseAddrPort("10.96.0.1:80")
	s := render.Service{ServiceName: render.ServiceName{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{frontend.Addr()},
		Ports: []render.Port{{Name: "http", Protocol: nft.TCP, Port: 80, Endpoints: []render.Endpoint{{AddrPort: netip.MustParseAddrPort("10.0.0.1:80"), Ready: true}}}}}
	tables := render.Tables(render.Update{Node: render.Node{Name: "n"}, Services: []render.Service{s}})
	chain := &nft.Chain{Table: tables[0].TableID, Name: name, Rules: []nft.Rule{{Do: nft.Opaque{Text: name}}, {Do: nft.Verdict{Kind: nft.Drop}}}}
	tables[0].Chains = append(tables[0].Chains, chain)
	prerouting := tables[0].Chain("prerouting")
	prerouting.Rules = []nft.Rule{{Do: nft.GotoChain(name)}}
	e := report.Explain(tables, report.Query{SourceWhy: name, Packet: nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP,
		Source: netip.MustParseAddrPort("10.0.9.9:0"), Destination: frontend}})
	e.Service.Name = name
	return e
}
