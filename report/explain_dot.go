package report

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
)

// WriteExplanationDot prints an explanation as a graph in the language DOT of Graphviz. It shows the client, the Service with its
// frontends, the chains with the rules that connections pass, and the endpoints with their shares; or, instead of endpoints, the
// outcome. With a desired state it also shows the endpoints that are not chosen, and why.
//
// Names are only in labels, where no text ends a string or a line. Equal explanations result in the same text.
func WriteExplanationDot(w io.Writer, e Explanation) error {
	d := drawing{Explanation: e, chains: make(map[string]*drawnChain)}
	d.begin()
	d.client()
	d.frontends()
	d.rules()
	if len(e.Endpoints) > 0 {
		d.endpoints()
	} else {
		d.outcome()
	}
	d.excluded()
	d.remarks()
	d.print("}\n")
	_, err := w.Write(d.b.Bytes())
	return err
}

// Limits of what is drawn: a picture with more says less.
const (
	maxDrawnEndpoints = 12 // that connections reach; as many that they do not reach
	maxDrawnFrontends = 4  // besides the one that is asked for
	lineWidth         = 56 // characters, after which labels are broken at a space
)

// drawing is a graph that is being written.
type drawing struct {
	Explanation
	b      bytes.Buffer
	chains map[string]*drawnChain // by name
}

// drawnChain is a chain that connections pass.
type drawnChain struct {
	id, name string
	rules    []string // that connections pass, with their results
}

// Colours: those of the other pictures in docs/pictures.
var originColours = map[Origin]string{Pod: "#1a7f37", Outsider: "#bc4c00", ThisNode: "#8250df"}

func (d *drawing) print(format string, args ...any) { fmt.Fprintf(&d.b, format, args...) }

// begin opens the graph, whose title is the question and the answer.
func (d *drawing) begin() {
	answer := outcomeText(d.Explanation)
	if len(d.Endpoints) == 0 { // the outcome has a node, with its reasons
		answer, _, _ = strings.Cut(answer, ": ")
	}
	title := fmt.Sprintf("%s to %s: %s", d.From.Address, destinationText(d.To), answer)
	d.print("digraph explanation {\n")
	d.print("\tgraph [rankdir=TB, ranksep=0.3, bgcolor=white, fontname=Helvetica, fontsize=12, labelloc=t, label=%s];\n", label(centred, wrap(title, "", 2*lineWidth)...))
	d.print("\tnode [shape=box, style=filled, fillcolor=white, color=\"#57606a\", fontname=Helvetica, fontsize=10];\n")
	d.print("\tedge [color=\"#57606a\", fontname=Helvetica, fontsize=10];\n")
}

// client draws the source of the connections.
func (d *drawing) client() {
	origin := map[Origin]string{ThisNode: "this node", Pod: "Pod", Outsider: "outsider"}[d.From.Origin]
	lines := append([]string{d.From.Address.String()}, wrap(origin+": "+d.From.Why, "", lineWidth)...)
	if d.From.Interface != "" {
		lines = append(lines, wrap("received on "+d.From.Interface, "", lineWidth)...)
	}
	d.print("\tclient [shape=ellipse, color=\"%s\", label=%s];\n", originColours[d.From.Origin], label(centred, lines...))
}

// frontends draws the destination, in a frame with the other frontends of the Service port if a Service has it.
func (d *drawing) frontends() {
	if d.Service == nil {
		d.print("\tfrontend [label=%s];\n", label(centred, destinationText(d.To)))
		d.print("\tclient -> frontend;\n")
		return
	}
	name := d.Service.Namespace + "/" + d.Service.Name
	if d.Service.Name == "" {
		name = "unknown"
	}
	if d.Service.Port != "" {
		name += ":" + d.Service.Port
	}
	d.print("\tsubgraph cluster_service {\n")
	d.print("\t\tgraph [color=\"#8c959f\", labeljust=l, label=%s];\n", label(centred, wrap("Service "+name, "", lineWidth)...))
	d.print("\t\tfrontend [label=%s];\n", label(centred, destinationText(d.To), string(OrDash(d.Service.Kind))))
	for i, o := range d.Service.Also {
		if i == maxDrawnFrontends {
			d.print("\t\tothers [style=dashed, label=%s];\n", label(centred, fmt.Sprintf("%d more frontends", len(d.Service.Also)-i)))
			break
		}
		at := netip.AddrPortFrom(o.Address, o.Port)
		d.print("\t\tother%d [style=dashed, label=%s];\n", i+1, label(centred, fmt.Sprintf("%s/%s", at, strings.ToLower(d.To.Protocol)), string(OrDash(o.Kind))))
	}
	d.print("\t}\n\tclient -> frontend;\n")
}

// rules draws the chains of all paths, and the edges between them.
func (d *drawing) rules() {
	var order []*drawnChain
	var edges []string
	for _, path := range d.paths {
		last := "frontend"
		for _, s := range path.Steps {
			c := d.chains[s.Chain]
			if c == nil {
				c = &drawnChain{id: fmt.Sprintf("chain%d", len(order)+1), name: s.Chain}
				d.chains[s.Chain], order = c, append(order, c)
			}
			if text := ruleLabel(s); !slices.Contains(c.rules, text) {
				c.rules = append(c.rules, text)
			}
			if edge := last + " -> " + c.id; last != c.id && !slices.Contains(edges, edge) {
				edges = append(edges, edge)
			}
			last = c.id
		}
	}
	for _, c := range order {
		lines := wrap("chain "+c.name, "", lineWidth)
		for _, r := range c.rules {
			rule, result, found := strings.Cut(r, resultMark)
			lines = append(lines, wrap(rule, "      ", lineWidth)...)
			if found {
				lines = append(lines, wrap("   → "+result, "      ", lineWidth)...)
			}
		}
		d.print("\t%s [fillcolor=\"#ddf4ff\", color=\"#0969da\", label=%s];\n", c.id, label(left, lines...))
	}
	for _, edge := range edges {
		d.print("\t%s;\n", edge)
	}
}

// resultMark is between a rule and its result, which begins a line.
const resultMark = " → "

// ruleLabel returns the text for a rule and its result. A result that is part of the rule is omitted, and so is the translation,
// which the picture shows as an edge.
func ruleLabel(s nft.Step) string {
	if strings.HasSuffix(s.Rule, s.Result) || strings.HasPrefix(s.Result, "to ") {
		return s.Rule
	}
	return s.Rule + resultMark + s.Result
}

// end returns the node at the end of a path: its last chain.
func (d *drawing) end(path nft.Path) string {
	if len(path.Steps) == 0 {
		return "frontend"
	}
	return d.chains[path.Steps[len(path.Steps)-1].Chain].id
}

// endpoints draws the endpoints that connections reach. An edge has the share.
func (d *drawing) endpoints() {
	nodes := make(map[netip.AddrPort]string)
	if d.Expected != nil {
		for _, x := range d.Expected.Endpoints {
			nodes[netip.AddrPortFrom(x.Address, x.Port)] = x.Node
		}
	}
	var ends []string // of the paths to endpoints that are not drawn
	shares := make(map[string]float64)
	for i, c := range d.Endpoints {
		from := d.end(d.paths[i])
		if i >= maxDrawnEndpoints {
			if !slices.Contains(ends, from) {
				ends = append(ends, from)
			}
			shares[from] += c.Chance
			continue
		}
		where, source := "elsewhere", "the client's address is kept"
		if c.Local {
			where = "this node"
		}
		if node := nodes[c.at()]; node != "" {
			where = node + ", " + where
		}
		if c.Masqueraded {
			source = "masqueraded"
		}
		d.print("\tendpoint%d [shape=box, style=\"filled,rounded\", color=\"#1a7f37\", label=%s];\n", i+1, label(centred, append(append([]string{candidateAt(c)},
			wrap(where, "", lineWidth)...), source)...))
		d.print("\t%s -> endpoint%d [label=%s];\n", from, i+1, label(centred, fmt.Sprintf("%d/%d, %.4g %%", c.Draws, c.Of, 100*c.Chance)))
	}
	if len(ends) > 0 {
		d.print("\tendpoints [style=\"filled,rounded\", color=\"#1a7f37\", label=%s];\n", label(centred, fmt.Sprintf("%d more endpoints", len(d.Endpoints)-maxDrawnEndpoints)))
	}
	for _, from := range ends {
		d.print("\t%s -> endpoints [label=%s];\n", from, label(centred, fmt.Sprintf("%.4g %%", 100*shares[from])))
	}
}

// outcome draws the end of connections that reach no endpoint.
func (d *drawing) outcome() {
	short, why, found := strings.Cut(outcomeText(d.Explanation), ": ")
	lines := []string{short}
	if found {
		lines = append(lines, wrap(why, "", lineWidth)...)
	}
	colour := "#cf222e"
	if d.Outcome == Untouched || d.Outcome == Answered {
		colour = "#57606a"
	}
	from := "frontend"
	if len(d.paths) > 0 {
		from = d.end(d.paths[0])
	}
	d.print("\toutcome [shape=octagon, color=\"%s\", label=%s];\n", colour, label(centred, lines...))
	d.print("\t%s -> outcome;\n", from)
}

// excluded draws the endpoints of the desired state that connections do not reach.
func (d *drawing) excluded() {
	if d.Expected == nil {
		return
	}
	reached := make(map[netip.AddrPort]bool)
	for _, c := range d.Endpoints {
		reached[c.at()] = true
	}
	var drawn []string
	more := 0
	for _, x := range d.Expected.Endpoints {
		at := netip.AddrPortFrom(x.Address, x.Port)
		if reached[at] {
			continue
		}
		if len(drawn) == maxDrawnEndpoints {
			more++
			continue
		}
		lines := []string{at.String()}
		if x.Node != "" {
			lines = append(lines, wrap(x.Node, "", lineWidth)...)
		}
		drawn = append(drawn, fmt.Sprintf("excluded%d", len(drawn)+1))
		d.print("\t%s [style=\"dashed,rounded\", fontcolor=\"#57606a\", label=%s];\n", drawn[len(drawn)-1], label(centred, append(lines, wrap(string(x.Why), "", lineWidth/2)...)...))
	}
	if more > 0 {
		drawn = append(drawn, "excluded")
		d.print("\texcluded [style=\"dashed,rounded\", fontcolor=\"#57606a\", label=%s];\n", label(centred, fmt.Sprintf("%d more that are not reached", more)))
	}
	if len(drawn) > 0 && len(d.Endpoints) > 0 {
		d.print("\t{ rank=same; endpoint1; %s; }\n", strings.Join(drawn, "; "))
	}
}

// remarks draws what else the text says: session affinity, problems and drift.
func (d *drawing) remarks() {
	var lines []string
	if d.Affinity != nil {
		lines = append(lines, wrap("affinity "+affinityText(*d.Affinity), "", lineWidth)...)
	}
	for _, p := range d.Problems {
		lines = append(lines, wrap("remark: "+p, "", lineWidth)...)
	}
	if d.Expected != nil && d.Expected.Drift.Changes > 0 {
		lines = append(lines, wrap("drift: "+driftText(d.Expected.Drift), "", lineWidth)...)
	}
	if len(lines) > 0 {
		d.print("\tremarks [shape=note, fillcolor=\"#fff8c5\", color=\"#9a6700\", label=%s];\n", label(left, lines...))
	}
}

// How the lines of a label end: Graphviz centres them or aligns them at the left.
const (
	centred = `\n`
	left    = `\l`
)

// label returns a string of DOT that shows lines of text. In labels Graphviz interprets sequences that begin with a backslash
// (escString) and character references of HTML.
func label(end string, lines ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, "&amp;")
	var b strings.Builder
	b.WriteByte('"')
	for i, line := range lines {
		b.WriteString(escape.Replace(Printable(line)))
		if i < len(lines)-1 || end == left {
			b.WriteString(end)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// wrap breaks a text at spaces into lines of about width characters. All but the first begin with an indent.
func wrap(text, indent string, width int) []string {
	var lines []string
	line := ""
	for i, word := range strings.Split(text, " ") {
		switch {
		case i == 0:
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), indent+word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
