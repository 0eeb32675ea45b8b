package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"nfproxy/preflight"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "check whether this node can run nfproxy, without changing it",
		Description: "Prints one line per result: ok, a warning or a problem, what it means and what to do. The exit code is 1 if\n" +
			"there is a problem. Kernel features are probed in a temporary network namespace; the node's own is only read.\n" +
			"docs/check.md lists every line.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "output format: text or json",
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

// reportLines prints the lines and returns an error if one of them is a problem.
func reportLines(lines []preflight.Line, printer func(io.Writer, []preflight.Line) error, w io.Writer) error {
	if err := printer(w, lines); err != nil {
		return err
	}
	if n := countLevel(lines, preflight.Problem); n > 0 {
		return fmt.Errorf("problems found: %d", n)
	}
	return nil
}

// checkPrinter returns the function that prints lines in the format of flag -o.
func checkPrinter(format string) (func(io.Writer, []preflight.Line) error, error) {
	switch format {
	case "text":
		return checkText, nil
	case "json":
		return checkJSON, nil
	}
	return nil, fmt.Errorf("-o must be text or json, not %q", format)
}

// checkText prints each line, its advice below it, and the number of lines per level.
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
