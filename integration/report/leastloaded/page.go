package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const pageHead = `# Least loaded: the results

Made by ` + "`make least-loaded`" + `; the decision and its reasons are in [0017](../0017-least-loaded.md), and the model in
` + "`integration/report/balance`" + `. All connections and loads are relative to the mean of the endpoints that serve at that time, so that 1 is a
perfect balance. Each number is the median of several seeds.

- *most open*: the open connections of the endpoint that has the most, mean over time; *worst*: its 99th percentile over time.
- *highest load*: the load of the endpoint that has the most, for its speed. *p99 of load*: the 99th percentile over all endpoints and times.
- *slots written/s*: the slots that one node writes in a second, each a deletion and an addition of an element.
- *after 10 min*: most open ten minutes after the beginning of the update, which takes five.
- *rebalanced after*: the time until the new endpoints have 80 % of the mean. *surge*: the most new connections that one endpoint gets
  in any minute, relative to an equal part.
- *failed*: the share of the attempts to connect that failed. *p99 of answers*: 99 of 100 requests take less.
- *two choices, node's counts* and *two choices, cluster's counts* compare two random endpoints at each connection, without delay.
  nftables cannot do that.
`

// pageOf returns the page with the plots and all results.
func pageOf(all results) []byte {
	var b bytes.Buffer
	b.WriteString(pageHead)
	for _, f := range figures() {
		fmt.Fprintf(&b, "\n![%s](%s.svg)\n", f.title, f.name)
	}
	for _, e := range experiments() {
		b.Write(section(e, all))
	}
	return b.Bytes()
}

// section returns the part of the page about one experiment.
func section(e experiment, all results) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| policy | nodes |", e.title, e.text)
	for _, c := range e.columns {
		fmt.Fprintf(&b, " %s |", c.title)
	}
	fmt.Fprintf(&b, "\n|---|---|%s\n", strings.Repeat("---|", len(e.columns)))
	for _, r := range all {
		if r.experiment != e.name {
			continue
		}
		nodes := "any"
		if r.nodes > 0 {
			nodes = strconv.Itoa(r.nodes)
		}
		fmt.Fprintf(&b, "| %s | %s |", r.policy.Name, nodes)
		for _, c := range e.columns {
			fmt.Fprintf(&b, " %s |", c.format(c.of(r.Result)))
		}
		b.WriteString("\n")
	}
	return b.Bytes()
}

// summaryRow is a row of the table in the design document.
type summaryRow struct {
	experiment, title string
	column            column
}

func summaryRows() []summaryRow {
	long, short := sessionColumns(), requestColumns()
	return []summaryRow{
		{"websockets", "websockets, nothing happens: most open", long[0]},
		{"scale-up", "websockets, from 10 to 15 endpoints: rebalanced after", rebalanced},
		{"scale-up", "the same: most new connections to one endpoint", surge},
		{"hours", "connections of hours, from 10 to 15 endpoints: rebalanced after", rebalanced},
		{"rolling", "websockets, rolling update: most open, worst", long[1]},
		{"rolling", "the same: most open after ten minutes", settled},
		{"grpc", "gRPC, rolling update: highest load", long[2]},
		{"web", "short connections: p99 of answers", short[2]},
		{"slow", "short, 3 of 10 endpoints slow: p99 of answers", short[2]},
		{"web-fail", "short, one endpoint fails at once: failed", failed},
		{"fail", "websockets, one endpoint fails at once: failed", failed},
		{"web-hang", "short, one endpoint hangs: failed", failed},
		{"hang", "websockets, one endpoint hangs: failed", failed},
	}
}

// The lines between these comments in the design document are generated.
const (
	summaryBegin = "<!-- results of make least-loaded: begin -->\n"
	summaryEnd   = "<!-- results of make least-loaded: end -->\n"
)

// withSummary returns the design document with the lines between the comments replaced.
func withSummary(document []byte, all results) ([]byte, error) {
	before, rest, ok1 := bytes.Cut(document, []byte(summaryBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(summaryEnd))
	if !ok1 || !ok2 {
		return nil, errors.New("the comments around the results are missing")
	}
	table, err := summary(all)
	if err != nil {
		return nil, err
	}
	return slices.Concat(before, []byte(summaryBegin), table, []byte(summaryEnd), after), nil
}

// summary returns the table of the design document.
func summary(all results) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("| | random | counts, 5 nodes | 50 nodes | 500 nodes | two choices, node's counts, 50 nodes | two choices, cluster's counts |\n")
	b.WriteString("|---|---|---|---|---|---|---|\n")
	for _, row := range summaryRows() {
		fmt.Fprintf(&b, "| %s |", row.title)
		for _, cell := range []struct {
			policy string
			nodes  int
		}{
			{random().Name, 0}, {counts(5, 64).Name, 5}, {counts(5, 64).Name, 50}, {counts(5, 64).Name, 500}, {twoOwn().Name, 50}, {twoCluster().Name, 0},
		} {
			r, err := all.of(row.experiment, cell.policy, cell.nodes)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(&b, " %s |", row.column.format(row.column.of(r.Result)))
		}
		b.WriteString("\n")
	}
	return b.Bytes(), nil
}
