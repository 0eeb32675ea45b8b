package cli

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"nfproxy/config"
	"nfproxy/preflight"
	"nfproxy/report"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "check whether nfproxy can run on this node, without changing anything",
		Description: "check prints one line for each thing it checks: its level (ok, warning or problem), the finding, and what to\n" +
			"do. The exit code is 1 if there is a problem. Kernel features are tried out in a new network namespace; the\n" +
			"node's own is only read. docs/check.md explains every line.",
		Flags:  []cli.Flag{config.InstanceFlag(), outputFlag("text", "json"), nodePortRangeFlag()},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			write := writeCheckText
			if c.String("output") == "json" {
				write = writeCheckJSON
			}
			instance, err := config.InstanceOf(c)
			if err != nil {
				return err
			}
			node := preflight.Here(instance)
			if node.NodePorts, err = nodePorts(c); err != nil {
				return err
			}
			return reportLines(node.Check(), write, c.App.Writer)
		},
	}
}

const nodePortRange = "node-port-range"

// nodePortRangeFlag is the flag with the API server's range of node ports.
func nodePortRangeFlag() cli.Flag {
	return &cli.StringFlag{Name: nodePortRange, Value: preflight.DefaultNodePorts,
		Usage: "`RANGE` of node ports, if the API server has another --service-node-port-range"}
}

// nodePorts returns the value of nodePortRangeFlag.
func nodePorts(c *cli.Context) (utilnet.PortRange, error) {
	ports, err := preflight.ParseNodePorts(c.String(nodePortRange))
	if err != nil {
		return ports, fmt.Errorf("--%s: %w", nodePortRange, err)
	}
	return ports, nil
}

// reportLines prints the lines. It returns an error if one is a problem.
func reportLines(lines []preflight.Line, write func(io.Writer, []preflight.Line) error, w io.Writer) error {
	if err := write(w, lines); err != nil {
		return err
	}
	if n := countLevel(lines, preflight.Problem); n > 0 {
		return fmt.Errorf("problems on this node: %d", n)
	}
	return nil
}

// writeCheckText prints each line, with its advice below it. Findings name programs and interfaces, whose names are the choice of others.
func writeCheckText(w io.Writer, lines []preflight.Line) error {
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%-8s %-22s %s\n", l.Level, l.Check, report.Printable(l.Finding)); err != nil {
			return err
		}
		if l.Advice != "" {
			fmt.Fprintf(w, "%31s what to do: %s\n", "", report.Printable(l.Advice))
		}
	}
	_, err := fmt.Fprintf(w, "ok: %d, warnings: %d, problems: %d\n", countLevel(lines, preflight.OK),
		countLevel(lines, preflight.Warning), countLevel(lines, preflight.Problem))
	return err
}

func writeCheckJSON(w io.Writer, lines []preflight.Line) error {
	return writeJSON(w, checked{preflight.Worst(lines), lines})
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
