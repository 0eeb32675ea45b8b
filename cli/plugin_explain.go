package cli

import (
	"fmt"
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
			if err := checkExplainArgument(c); err != nil {
				return err
			}
			if _, err := parseClient(c.String("from")); err != nil {
				return err
			}
			args := []string{"explain", "-o", "json", "--to", c.Args().First()}
			if from := c.String("from"); from != "" {
				args = append(args, "--from", from)
			}
			s, err := ask[report.Explanation](c, "outcome", "", args...)
			if err != nil {
				return err
			}
			return s.writeGroups(c, fleet.ExplainedKey, func(g fleet.Group) (string, error) {
				e := s.decoded[g.Members[0]]
				e.Rules = []report.Rule{}
				var b strings.Builder
				err := report.WriteExplanation(&b, e)
				return b.String(), err
			})
		},
	}, 30*time.Second)
}

// checkExplainArgument checks that explain has one argument: a target, or ADDRESS/icmp.
func checkExplainArgument(c *cli.Context) error {
	if c.NArg() != 1 {
		return fmt.Errorf("explain takes one argument, %s", report.TargetSyntax)
	}
	if strings.HasSuffix(c.Args().First(), "/icmp") {
		return nil // nfproxy on the node checks the address
	}
	_, err := targetOfArgument(c)
	return err
}
