package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"nfproxy/report"
)

// targetArgument is how the help shows the argument of commands that print all Services, or a target.
const targetArgument = "[ADDRESS:PORT[/PROTOCOL] | [NAMESPACE/]NAME[:PORT[/PROTOCOL]]]"

// targetOfArgument parses the command's one argument. Without an argument it returns the zero Target.
func targetOfArgument(c *cli.Context) (report.Target, error) {
	switch c.NArg() {
	case 0:
		return report.Target{}, nil
	case 1:
		t, err := report.ParseTarget(c.Args().First())
		if err != nil {
			return t, fmt.Errorf("argument %w", err)
		}
		return t, nil
	}
	return report.Target{}, fmt.Errorf("%s takes one argument, and flags go before it; unexpected %q", c.Command.Name, c.Args().Get(1))
}

// targetFlag returns the flag --to.
func targetFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "to", Usage: "`TARGET`: " + report.TargetSyntax + "; " + usage}
}

// targetOfFlag parses the flag --to.
func targetOfFlag(c *cli.Context) (report.Target, error) {
	if c.String("to") == "" {
		return report.Target{}, fmt.Errorf("%s needs --to %s", c.Command.Name, report.TargetSyntax)
	}
	t, err := report.ParseTarget(c.String("to"))
	if err != nil {
		return t, fmt.Errorf("--to %w", err)
	}
	return t, nil
}
