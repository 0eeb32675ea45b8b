package cli

import (
	"github.com/urfave/cli/v2"

	"nfproxy/demo"
	"nfproxy/sandbox"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name:  "demo",
		Usage: "demonstrate nfproxy: four Services and real packets, in network namespaces of its own",
		Description: "demo needs root, or a kernel that lets users create user namespaces. It changes nothing outside the namespaces\n" +
			"that it creates, and these are gone when it ends.",
		Before: noArguments,
		Action: func(c *cli.Context) error {
			if !sandbox.Inside() {
				return sandbox.Run(c.Context, nil, "demo")
			}
			return demo.Run(c.Context, c.App.Writer)
		},
	}
}
