package cli

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"nfproxy/render"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print the version, the schema version of the tables and the Go version",
		Before: noArguments,
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "nfproxy %s, schema %d, %s %s/%s\n",
				c.App.Version, render.SchemaVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
