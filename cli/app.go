package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// garbagePercent is how far the heap may grow beyond the memory in use, in percent, unless GOGC is set. It is half of
// Go's default: a node has its memory for Pods, and the extra processor time is spent during the start alone.
const garbagePercent = 50

// Main runs the command line args[1:] until it ends or ctx does, and returns the exit code of the process. Output goes to
// stdout; errors and the log go to stderr. version is what nfproxy reports as its version.
func Main(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if err := newApp(version, stdout, stderr).RunContext(ctx, args); err != nil {
		fmt.Fprintln(stderr, "nfproxy:", err)
		return 1
	}
	return 0
}

// newApp is the command line. Output goes to stdout; what went wrong and the log go to stderr.
func newApp(version string, stdout, stderr io.Writer) *cli.App {
	commands := []*cli.Command{runCommand(), dumpCommand(), explainCommand(), traceCommand(), topCommand(), checkCommand(),
		cleanupCommand(), demoCommand(), completionCommand(), versionCommand()}
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = usageError
	}
	return &cli.App{
		Name:            "nfproxy",
		Usage:           "the service proxy for Linux that has nftables and nothing else",
		Version:         version,
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

// noArguments refuses arguments after the flags: mostly they are a flag without its dashes.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no argument %q", c.Command.Name, c.Args().First())
	}
	return nil
}
