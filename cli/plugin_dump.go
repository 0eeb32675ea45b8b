package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/fleet"
	"nfproxy/report"
)

func fleetDumpCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:      "dump",
		Usage:     "print the frontends and endpoints of a Service in the kernels; nodes that agree form one group",
		ArgsUsage: "ADDRESS:PORT[/PROTOCOL] | [NAMESPACE/]NAME[:PORT[/PROTOCOL]]",
		Description: "dump runs nfproxy dump on every node. Counters of the nodes of a group are added up. What legitimately differs between\n" +
			"nodes does not part them: the addresses of node ports and which endpoints are local. Of each group it prints the\n" +
			"frontends of the first node.",
		Flags: []cli.Flag{outputFlag("table", "wide", "json")},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return fmt.Errorf("dump takes one argument, %s", report.TargetSyntax)
			}
			if _, err := targetOfArgument(c); err != nil {
				return err
			}
			s, err := ask[report.Description](c, "services", c.Args().First(), "dump", "-o", "json")
			if err != nil {
				return err
			}
			return s.writeGroups(c, fleet.DumpedKey, func(g fleet.Group) (string, error) {
				sum, err := copyOf(s.decoded[g.Members[0]])
				if err != nil {
					return "", err
				}
				fleet.AddCounters(sum, pick(s.decoded, g.Members[1:])...)
				var b strings.Builder
				if c.String("output") == "wide" {
					err = report.WriteWide(&b, sum)
				} else {
					err = report.WriteTable(&b, sum)
				}
				return b.String(), err
			})
		},
	}, 30*time.Second)
}

// copyOf returns a copy of a description that shares nothing with it.
func copyOf(d report.Description) (c report.Description, err error) {
	text, err := json.Marshal(d)
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	return c, err
}
