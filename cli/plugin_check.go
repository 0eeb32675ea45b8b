package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/preflight"
)

func fleetCheckCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:  "check",
		Usage: "check what nfproxy finds on every node; nodes with the same finding form one line",
		Description: "check runs nfproxy check on every node, in nfproxy's container, where the kernel's features cannot be tried out. The exit\n" +
			"code is 1 if a node has a problem.",
		Flags:  []cli.Flag{outputFlag("text", "json"), nodePortRangeFlag()},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			if _, err := nodePorts(c); err != nil {
				return err
			}
			args := []string{"check", "-o", "json"}
			if c.IsSet(nodePortRange) { // an older nfproxy on a node may not have the flag
				args = append(args, "--"+nodePortRange+"="+c.String(nodePortRange))
			}
			s, err := ask[checked](c, "lines", "", args...)
			if err != nil {
				return err
			}
			var nodes []string
			var lines [][]preflight.Line
			for _, i := range s.answered() {
				nodes, lines = append(nodes, s.answers[i].Node), append(lines, s.decoded[i].Lines)
			}
			text, problems := checkedText(nodes, lines)
			found := ""
			if problems > 0 {
				found = "problems on " + count(problems, "node")
			}
			return s.write(c, s.report(), text, found)
		},
	}, time.Minute)
}

// checked is what nfproxy check prints with -o json.
type checked struct {
	Result preflight.Level  `json:"result"`
	Lines  []preflight.Line `json:"lines"`
}

// checkedText prints each warning and each problem with the nodes that have it, problems first, and how many nodes have neither. It
// returns the number of nodes with a problem.
func checkedText(nodes []string, lines [][]preflight.Line) (text string, problems int) {
	having := make(map[preflight.Line][]string)
	var found []preflight.Line
	fine := 0
	for i, node := range nodes {
		worst := preflight.Worst(lines[i])
		switch worst {
		case preflight.OK:
			fine++
		case preflight.Problem:
			problems++
		}
		for _, l := range lines[i] {
			if l.Level == preflight.OK {
				continue
			}
			if having[l] == nil {
				found = append(found, l)
			}
			having[l] = append(having[l], node)
		}
	}
	slices.SortStableFunc(found, func(a, b preflight.Line) int {
		if a.Level != b.Level {
			if a.Level == preflight.Problem {
				return -1
			}
			return 1
		}
		return cmp.Or(len(having[b])-len(having[a]), strings.Compare(a.Check, b.Check))
	})
	var b strings.Builder
	for _, l := range found {
		fmt.Fprintf(&b, "%-8s %-22s %s\n", printable(string(l.Level)), printable(l.Check), printable(l.Finding))
		fmt.Fprintf(&b, "%31s on %s\n", "", nodeList(having[l]))
		if l.Advice != "" {
			fmt.Fprintf(&b, "%31s what to do: %s\n", "", printable(l.Advice))
		}
	}
	fmt.Fprintf(&b, "%s checked: %d without a finding, %d with problems\n", count(len(nodes), "node"), fine, problems)
	return b.String(), problems
}
