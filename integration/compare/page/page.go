//go:build linux

// Package page turns the records of comparisons into text: the page docs/benchmarks/README.md, the part of the main README between
// two comments, and the values of the plots. The same records result in the same text.
package page

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"nfproxy/integration/compare/record"
)

//go:embed page.md
var pageText string

// Page is what the template page.md shows.
type Page struct {
	Records []record.Record
}

// Markdown returns the page about records.
func Markdown(all []record.Record) ([]byte, error) {
	parsed, err := template.New("page").Parse(pageText)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, Page{all})
	return text.Bytes(), err
}

// Run is a row of the table of runs.
type Run struct{ Date, Commit, Command, Time, Load, Note string }

// Runs returns the runs of the records.
func (p Page) Runs() []Run {
	var all []Run
	for _, r := range p.Records {
		all = append(all, Run{r.Date, r.Versions.Nfproxy, r.Command, fmt.Sprintf("%.0f minutes", r.Seconds/60), fmt.Sprintf("%.1f", r.Load), r.Note})
	}
	return all
}

// Machine returns the machine, which is the same for all records.
func (p Page) Machine() record.Machine { return p.Records[0].Machine }

// GiB returns the memory of the machine.
func (p Page) GiB() string { return fmt.Sprintf("%.0f GiB", p.Machine().Memory/(1<<30)) }

// Versions returns the versions of the programs, without repetitions.
func (p Page) Versions() []string {
	var all []string
	for _, r := range p.Records {
		v := r.Versions
		for _, text := range []string{"kube-proxy " + v.KubeProxy, "Kubernetes " + v.Kubernetes, "nft " + v.Nft, "iptables " + v.Iptables, v.Go} {
			if !slices.Contains(all, text) {
				all = append(all, text)
			}
		}
	}
	return all
}

// Section is the part of the page about one experiment.
type Section struct{ Name, Title, Text, Table, Plot string }

// Sections returns the sections of the experiments.
func (p Page) Sections() []Section {
	var all []Section
	for _, e := range order(p.Records) {
		s := Section{Title: e.title, Text: e.text, Table: e.table(rowsOf(p.Records, e.name))}
		if f, ok := e.figure(p.Records); ok {
			s.Plot = fmt.Sprintf("![%s](%s.svg)", f.Title, f.Name)
		}
		all = append(all, s)
	}
	return all
}

// Target is a row of the table of targets.
type Target struct{ Title, Size, Limit, Result, Met, Better string }

// Targets returns the targets with their results.
func (p Page) Targets() []Target {
	var all []Target
	for _, t := range targets {
		row := Target{Title: t.title, Limit: t.text}
		if t.elsewhere != "" {
			row.Result = "not part of these runs: " + t.elsewhere
		} else {
			p.fill(&row, t)
		}
		all = append(all, row)
	}
	return all
}

// fill fills in the result of a target.
func (p Page) fill(row *Target, t target) {
	row.Size = fmt.Sprintf("%s x %s", Grouped(t.services), Grouped(t.endpoints))
	r, ok := find(p.Records, t.experiment, t.parameters, t.services, t.endpoints)
	own := r.of[record.Nfproxy]
	if !ok || own == nil {
		row.Result = "not measured"
		return
	}
	row.Result = valueOf(own)
	limit := t.limit
	if direct := r.of[record.None]; t.times > 0 {
		if direct == nil {
			return
		}
		limit = t.times * direct.P50
		if higherIsBetter(own.Unit) {
			limit = direct.P50 / t.times
		}
	}
	if t.limitOf != "" {
		other, ok := find(p.Records, t.limitOf, t.limitParameters, t.services, t.endpoints)
		if !ok || other.of[record.Nfproxy] == nil {
			return
		}
		limit = other.of[record.Nfproxy].P50
	}
	row.Met = "yes"
	if !t.meets(own, limit) {
		row.Met = "**no**"
		if t.why != "" {
			row.Met += ": " + t.why
		}
	}
	var better []string
	for _, peer := range peers {
		if a, ok := r.over(peer); ok {
			better = append(better, fmt.Sprintf("%s (%s)", a, peer))
		}
	}
	row.Better = strings.Join(better, ", ")
}

// meets reports whether a result reaches a limit.
func (t target) meets(own *record.Measurement, limit float64) bool {
	if higherIsBetter(own.Unit) {
		return own.P50 >= limit
	}
	return !own.OverBound() && own.P50 <= limit
}

// Worse returns a sentence for each result of nfproxy that is not better than that of a peer.
func (p Page) Worse() []string {
	var all []string
	for _, e := range order(p.Records) {
		if e.neutral {
			continue
		}
		for _, r := range rowsOf(p.Records, e.name) {
			for _, peer := range peers {
				a, ok := r.over(peer)
				if !ok || a.isBetter() || e.parts && r.parameters != e.plotted {
					continue
				}
				text := fmt.Sprintf("%s at %s: nfproxy %s, %s %s", e.titleOf(r), r.size(), valueOf(r.of[record.Nfproxy]), peer, valueOf(r.of[peer]))
				if !a.isWorse() {
					text += ", which is about the same"
				}
				all = append(all, text)
			}
		}
	}
	return all
}

// titleOf returns the title of an experiment with the parameters of a row.
func (e experiment) titleOf(r row) string {
	if r.parameters == "" {
		return e.title
	}
	return e.title + " (" + r.parameters + ")"
}

// The comments between which the main README has what Readme returns.
const (
	readmeBegin = "<!-- The next lines are generated by `make bench-compare`: do not edit them. -->\n"
	readmeEnd   = "<!-- The generated lines end here. -->\n"
)

// readmeLines are the rows of the table in the main README.
var readmeLines = []struct{ title, experiment, parameters string }{
	{"start of the process to a connection through the last Service", "start", ""},
	{"restart to a change made meanwhile", "restart", ""},
	{"an endpoint replaced in the API to a connection that reaches it", "change", "replaced"},
	{"100 Services created at once, until all answer", "create", ""},
	{"CPU time of the start, with all programs that it executes", "start-cpu", ""},
	{"peak memory, with all programs that it executes", "memory", "peak"},
	{"memory of the kernel", "kernel-memory", "total"},
	{"longest wait of another user of nftables during the start", "others-wait", ""},
}

// WithReadme returns the text of the main README with the lines between the comments replaced.
func WithReadme(readme []byte, all []record.Record) ([]byte, error) {
	before, rest, ok1 := bytes.Cut(readme, []byte(readmeBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(readmeEnd))
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("the README lacks one of the lines %q and %q", readmeBegin, readmeEnd)
	}
	lines, err := readmeTable(all)
	if err != nil {
		return nil, err
	}
	return slices.Concat(before, []byte(readmeBegin), []byte(lines), []byte(readmeEnd), after), nil
}

// readmeSize returns the size that the README shows: the largest one with three endpoints, up to 10,000 Services, at which both modes
// of kube-proxy have started.
func readmeSize(all []record.Record) (services int, err error) {
	for _, r := range rowsOf(all, "start") {
		started := func(p record.Proxy) bool { return r.of[p] != nil && !r.of[p].OverBound() }
		if r.endpoints == 3 && r.services <= 10_000 && started(record.KubeProxyNftables) && started(record.KubeProxyIptables) {
			services = max(services, r.services)
		}
	}
	if services == 0 {
		return 0, errors.New("the records have no size for the README")
	}
	return services, nil
}

func readmeTable(all []record.Record) (string, error) {
	services, err := readmeSize(all)
	if err != nil {
		return "", err
	}
	columns := []record.Proxy{record.Nfproxy, record.KubeProxyNftables, record.KubeProxyIptables}
	text := fmt.Sprintf("\nOn one machine and one real API server, with %s Services of three endpoints each. [docs/benchmarks](docs/benchmarks/README.md) has\nthe other sizes, the machine, how each was measured, and where nfproxy is not better.\n\n", Grouped(services))
	for _, r := range all {
		shown := func(m record.Measurement) bool { return m.Services == services && m.Endpoints == 3 }
		if r.Note != "" && slices.ContainsFunc(r.Measurements, shown) {
			text += "(Note: " + strings.TrimSuffix(r.Note, ".") + ".)\n\n"
		}
	}
	text += line([]string{"", string(columns[0]), string(columns[1]), string(columns[2])}) + "|---|---|---|---|\n"
	for _, l := range readmeLines {
		r, ok := find(all, l.experiment, l.parameters, services, 3)
		if !ok {
			return "", fmt.Errorf("the records have no %s at %d Services", l.experiment, services)
		}
		cells := []string{l.title}
		for _, proxy := range columns {
			cell := "not measured"
			if m := r.of[proxy]; m != nil {
				cell = valueOf(m)
			}
			cells = append(cells, cell)
		}
		text += line(cells)
	}
	return text + "\n![Start to a connection, by the number of Services](docs/benchmarks/start.svg)\n\n", nil
}
