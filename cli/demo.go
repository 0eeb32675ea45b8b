package cli

import (
	"github.com/urfave/cli/v2"

	"nfproxy/demo"
	"nfproxy/sandbox"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "show it at work: four Services, real packets, in network namespaces of its own",
		Description: "It needs root, or a kernel that lets users make user namespaces. It touches nothing outside the\n" +
			"namespaces it makes, and they are gone when it ends.",
		Before: noArguments,
		Action: func(c *cli.Context) error {
			if !sandbox.Inside() {
				return sandbox.Run(c.Context, nil, "demo")
			}
			return demo.Run(c.Context, c.App.Writer)
		},
	}
}
