// Command nfproxy turns Kubernetes Services into nftables: it is a service proxy that needs nothing of the node but the
// kernel. See README.md and docs/architecture.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"nfproxy/render"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "unknown"

// garbagePercent is how much garbage may gather beside what is in use, unless GOGC says otherwise. Half of Go's own: a node
// has memory for its pods, and the processor time is spent at the start alone.
const garbagePercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newApp(os.Stdout, os.Stderr).RunContext(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "nfproxy:", err)
		stop()
		os.Exit(1)
	}
}

// newApp is the command line. Output goes to stdout; what went wrong and the log go to stderr.
func newApp(stdout, stderr io.Writer) *cli.App {
	commands := []*cli.Command{runCommand(), dumpCommand(), explainCommand(), traceCommand(), topCommand(), checkCommand(),
		cleanupCommand(), demoCommand(), completionCommand(), versionCommand()}
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = usageError
	}
	return &cli.App{
		Name:            "nfproxy",
		Usage:           "the service proxy for Linux that has nftables and nothing else",
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		// Errors are returned to main, which prints them once.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(c.App.ErrWriter, "nfproxy: there is no command %q; nfproxy --help lists them\n", name)
			cli.OsExiter(1)
		},
		Commands: commands,
	}
}

// usageError leaves the printing to main: one line, not the whole help.
func usageError(c *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%s: %w; --help lists the flags", c.Command.Name, err)
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name:   "version",
		Usage:  "print the version, the schema of the tables and the Go version",
		Before: noArguments,
		Action: func(c *cli.Context) error {
			_, err := fmt.Fprintf(c.App.Writer, "nfproxy %s, schema %d, %s %s/%s\n",
				version, render.Schema, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// noArguments refuses arguments after the flags: mostly they are a flag without its dashes.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no argument %q", c.Command.Name, c.Args().First())
	}
	return nil
}
