package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/fleet"
	"nfproxy/report"
)

func fleetExplainCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:      "explain",
		Usage:     "explain what becomes of a connection on each node; nodes that agree form one group",
		ArgsUsage: "ADDRESS:PORT[/PROTOCOL] | [NAMESPACE/]NAME[:PORT[/PROTOCOL]]",
		Description: "explain runs nfproxy explain on every node. What legitimately differs between nodes does not part them: the node's own\n" +
			"address, which endpoints are local and masquerading to those, interfaces, and the clients that session affinity\n" +
			"remembers. Of each group it prints the explanation of the first node, without rules; -o json has all.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "`ADDRESS[%INTERFACE]`: the client's address and the interface that receives its packets (default: the node itself)"},
			outputFlag("text", "json"),
		},
		Action: func(c *cli.Context) error {
			if _, _, err := explainedText(c); err != nil {
				return err
			}
			if _, err := parseClient(c.String("from")); err != nil {
				return err
			}
			args := []string{"explain", "-o", "json", "--to", c.Args().First()}
			if from := c.String("from"); from != "" {
				args = append(args, "--from", from)
			}
			s, err := ask[report.Explanation](c, "", args...)
			if err != nil {
				return err
			}
			groups := groupsOf(s, func(node string, e report.Explanation) fleet.Key { return fleet.ExplainedKey(node, e) })
			text, err := groupsText(groups, len(s.answered()), func(g fleet.Group) (string, error) {
				e := s.decoded[g.Members[0]]
				e.Rules = []report.Rule{}
				var b strings.Builder
				err := report.WriteExplanation(&b, e)
				return b.String(), err
			})
			if err != nil {
				return err
			}
			r := s.report()
			r.Groups = groups
			return s.write(c, r, text, "")
		},
	}, 30*time.Second)
}

// explainedText checks the argument of explain.
func explainedText(c *cli.Context) (report.Target, bool, error) {
	if c.NArg() != 1 {
		return report.Target{}, false, fmt.Errorf("explain takes one argument, %s", report.TargetSyntax)
	}
	if strings.HasSuffix(c.Args().First(), "/icmp") {
		return report.Target{}, true, nil
	}
	t, err := targetOfArgument(c)
	return t, false, err
}

// groupsOf returns the groups of nodes with equal answers.
func groupsOf[T any](s survey[T], key func(node string, answer T) fleet.Key) []fleet.Group {
	keys := make([]fleet.Key, len(s.answers))
	for _, i := range s.answered() {
		keys[i] = key(s.answers[i].Node, s.decoded[i])
	}
	return fleet.GroupBy(keys)
}

// groupsText prints each group with its nodes: the largest without their names unless it is the only one that differs.
func groupsText(groups []fleet.Group, answered int, text func(fleet.Group) (string, error)) (string, error) {
	var b strings.Builder
	for i, g := range groups {
		switch {
		case len(groups) == 1:
			fmt.Fprintf(&b, "%s agree: %s\n", count(len(g.Nodes), "node"), strings.Join(g.Nodes, ", "))
		case i == 0:
			fmt.Fprintf(&b, "%d of %s agree: %s\n", len(g.Nodes), count(answered, "node"), strings.Join(g.Nodes, ", "))
		default:
			fmt.Fprintf(&b, "\n%s: %s\n", differ(len(g.Nodes)), strings.Join(g.Nodes, ", "))
		}
		body, err := text(g)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(body) {
			if line != "\n" {
				line = "  " + line
			}
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// differ says that n nodes differ.
func differ(n int) string {
	if n == 1 {
		return "1 node differs"
	}
	return fmt.Sprintf("%d nodes differ", n)
}

// others returns the members of a group but the first.
func others[T any](g fleet.Group, all []T) []T { return slices.Clip(pick(all, g.Members[1:])) }
