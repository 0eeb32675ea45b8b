package report

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"nfproxy/render"
)

// WriteExplanation prints an explanation as text.
func WriteExplanation(w io.Writer, e Explanation) error {
	var b bytes.Buffer
	facts := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	row(facts, "from", fromText(e.From))
	row(facts, "to", destinationText(e.To))
	if e.Service != nil {
		row(facts, "service", serviceText(*e.Service))
	}
	row(facts, "outcome", outcomeText(e))
	if e.Affinity != nil {
		row(facts, "affinity", affinityText(*e.Affinity))
	}
	masqueradeRows(facts, e.Endpoints)
	for _, p := range e.Problems {
		row(facts, "remark", p)
	}
	facts.Flush()
	candidateRows(&b, e.Endpoints)
	ruleRows(&b, e)
	if e.Expected != nil {
		expectedRows(&b, *e.Expected)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// row prints one line of a table. Text from the kernel or the cluster must not control the terminal, nor look like further
// lines or cells.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = Printable(c)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// Printable replaces characters that cannot be printed by Go's escape sequences.
func Printable(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if unicode.IsPrint(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			q := strconv.Quote(s[:n])
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

func destinationText(d Destination) string {
	protocol := strings.ToLower(d.Protocol)
	if d.Port == 0 {
		return fmt.Sprintf("%s/%s", d.Address, protocol)
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(d.Address, d.Port), protocol)
}

func fromText(f Source) string {
	origin := map[Origin]string{ThisNode: "this node", Pod: "Pod", Outsider: "outsider"}[f.Origin]
	text := fmt.Sprintf("%s, %s: %s", f.Address, origin, f.Why)
	if f.Interface != "" {
		text += "; received on " + f.Interface
	}
	return text
}

func serviceText(s ReachedPort) string {
	text := s.Namespace + "/" + s.Name
	if s.Name == "" {
		text = "unknown"
	}
	if s.Port != "" {
		text += ":" + s.Port
	}
	text += ", " + string(OrDash(s.Kind))
	if len(s.Also) == 0 {
		return text
	}
	var also []string
	for _, o := range s.Also {
		also = append(also, fmt.Sprintf("%s (%s)", netip.AddrPortFrom(o.Address, o.Port), OrDash(o.Kind)))
	}
	return text + "; also at " + some(also)
}

func outcomeText(e Explanation) string {
	text := string(e.Outcome)
	switch {
	case e.Outcome == Sent && len(e.Endpoints) > 1:
		text = fmt.Sprintf("sent to one of %d endpoints", len(e.Endpoints))
	case e.Outcome == Sent && len(e.Endpoints) == 1:
		text = "sent to " + candidateAt(e.Endpoints[0])
	case e.Outcome == Untouched:
		text = "untouched"
	case e.Outcome == Answered:
		text = "answered by this node"
	case e.Outcome == Dropped:
		text = "dropped without an answer"
	case e.Answer == "reset":
		text = "refused with a TCP reset"
	case e.Outcome == Refused:
		text = "refused with ICMP port unreachable"
	}
	return text + ": " + join(e.Why)
}

func join(reasons []render.Reason) string {
	texts := make([]string, len(reasons))
	for i, r := range reasons {
		texts[i] = string(r)
	}
	return strings.Join(texts, "; ")
}

func candidateAt(c Candidate) string { return netip.AddrPortFrom(c.Address, c.Port).String() }

func affinityText(a Affinity) string {
	text := seconds(a.Seconds).String() + ": "
	switch a.State {
	case "remembered":
		text += "the client is sent to " + a.Endpoint
		if a.LeftSeconds != nil {
			text += fmt.Sprintf(" for another %s", seconds(*a.LeftSeconds))
		}
		return text
	case "full":
		return text + fmt.Sprintf("the map is full (%d clients), so each connection of this client is balanced independently", a.Clients)
	}
	return text + "the client is new and will be remembered from its first connection on"
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// masquerading is whether and why the source is masqueraded.
type masquerading struct {
	masqueraded bool
	why         render.Reason
}

// masqueradeRows prints one line for all endpoints, or one for each reason.
func masqueradeRows(w io.Writer, candidates []Candidate) {
	var kinds []masquerading
	endpoints := make(map[masquerading][]string)
	for _, c := range candidates {
		m := masquerading{c.Masqueraded, c.MasqueradeWhy}
		if endpoints[m] == nil {
			kinds = append(kinds, m)
		}
		endpoints[m] = append(endpoints[m], candidateAt(c))
	}
	for _, m := range kinds {
		text := "no"
		if m.masqueraded {
			text = "yes"
		}
		if len(kinds) > 1 {
			text += ", to " + some(endpoints[m])
		}
		row(w, "masquerade", fmt.Sprintf("%s (%s)", text, m.why))
	}
}

// some joins the first maxListed names and the number of the others.
func some(names []string) string {
	if n := len(names) - maxListed; n > 0 {
		names = append(slices.Clone(names[:maxListed]), fmt.Sprintf("%d more", n))
	}
	return strings.Join(names, ", ")
}

func candidateRows(b *bytes.Buffer, candidates []Candidate) {
	if len(candidates) == 0 {
		return
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	row(t, "ENDPOINT", "CHANCE", "WHERE")
	for _, c := range candidates {
		where := "elsewhere"
		if c.Local {
			where = "this node"
		}
		row(t, candidateAt(c), fmt.Sprintf("%d/%d, %.4g %%", c.Draws, c.Of, 100*c.Chance), where)
	}
	t.Flush()
}

func ruleRows(b *bytes.Buffer, e Explanation) {
	if len(e.Rules) == 0 {
		return
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	heading := "RULE"
	if len(e.Endpoints) > 1 {
		heading += " (to " + candidateAt(e.Endpoints[0]) + ")"
	}
	row(t, "CHAIN", heading, "RESULT")
	for _, r := range e.Rules {
		row(t, r.Chain, r.Rule, r.Result)
	}
	t.Flush()
}

func expectedRows(b *bytes.Buffer, x Expectation) {
	b.WriteByte('\n')
	facts := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	switch {
	case x.Why == "": // a ping
	case x.Service == "" && x.Action == "":
		row(facts, "expected", "untouched: "+string(x.Why))
	case x.Service == "":
		row(facts, "expected", fmt.Sprintf("%s: %s", x.Action, x.Why))
	default:
		row(facts, "expected", fmt.Sprintf("%s, %s: %s", x.Service, x.Action, x.Why))
	}
	row(facts, "drift", driftText(x.Drift))
	facts.Flush()
	if len(x.Endpoints) == 0 {
		return
	}
	b.WriteByte('\n')
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	row(t, "ENDPOINT", "NODE", "CHOSEN", "WHY")
	for _, e := range x.Endpoints {
		chosen := "no"
		if e.Chosen {
			chosen = "yes"
		}
		row(t, netip.AddrPortFrom(e.Address, e.Port).String(), OrDash(e.Node), chosen, string(e.Why))
	}
	t.Flush()
}

func driftText(d Drift) string {
	if d.Changes == 0 {
		return "none: the kernel's tables match the desired state"
	}
	about := "none concerns this frontend"
	if d.Frontend {
		about = "some concern this frontend"
	}
	return fmt.Sprintf("changes to make: %d (%s); first: %s", d.Changes, about, d.First)
}
