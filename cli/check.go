package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/preflight"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "look whether this node can be served, before anything is changed",
		Description: "A line for each thing looked at: ok, a warning or a problem, what it means and what to do. The exit code\n" +
			"is 1 if there is a problem. What must be tried out is tried in a network namespace of its own, the node's\n" +
			"is only read. docs/check.md has every line.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text or json",
				EnvVars: []string{"NFPROXY_CHECK_OUTPUT"}},
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			printer, err := checkPrinter(c.String("output"))
			if err != nil {
				return err
			}
			return reportLines(preflight.Here().Check(), printer, c.App.Writer)
		},
	}
}

// reportLines prints the lines, and returns an error if there is a problem among them.
func reportLines(lines []preflight.Line, printer func(io.Writer, []preflight.Line) error, w io.Writer) error {
	if err := printer(w, lines); err != nil {
		return err
	}
	if n := countLevel(lines, preflight.Problem); n > 0 {
		return fmt.Errorf("this node has problems: %d", n)
	}
	return nil
}

func checkPrinter(format string) (func(io.Writer, []preflight.Line) error, error) {
	switch format {
	case "text":
		return checkText, nil
	case "json":
		return checkJSON, nil
	}
	return nil, errors.New("-o is one of text and json, not " + format)
}

// checkText prints a line for each, and one below it that says what to do.
func checkText(w io.Writer, lines []preflight.Line) error {
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%-8s %-22s %s\n", l.Level, l.Check, l.Finding); err != nil {
			return err
		}
		if l.Advice != "" {
			fmt.Fprintf(w, "%31s what to do: %s\n", "", l.Advice)
		}
	}
	_, err := fmt.Fprintf(w, "ok: %d, warnings: %d, problems: %d\n", countLevel(lines, preflight.OK),
		countLevel(lines, preflight.Warning), countLevel(lines, preflight.Problem))
	return err
}

func checkJSON(w io.Writer, lines []preflight.Line) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Result preflight.Level  `json:"result"`
		Lines  []preflight.Line `json:"lines"`
	}{preflight.Worst(lines), lines})
}

func countLevel(lines []preflight.Line, level preflight.Level) int {
	n := 0
	for _, l := range lines {
		if l.Level == level {
			n++
		}
	}
	return n
}
