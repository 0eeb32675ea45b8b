package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// garbagePercent is the GC percentage unless GOGC is set: half of Go's default. The memory of a node is for Pods, and the
// extra processor time is spent during the start only.
const garbagePercent = 50

// Main runs the command line args[1:] until it ends, and returns the exit code of the process. SIGINT and SIGTERM end it. Output
// goes to stdout; errors and the log go to stderr. version is what nfproxy reports as its version. By the name of the kubectl plugin
// the command line is the plugin's.
func Main(version string, args []string, stdout, stderr io.Writer) int {
	ctx, signals := awaitTerminations(context.Background())
	defer signals.end()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	if isPlugin(args[0]) {
		return pluginMain(ctx, newPluginApp(version, stdout, stderr), args)
	}
	if err := newApp(version, stdout, stderr, signals).RunContext(ctx, args); err != nil {
		fmt.Fprintln(stderr, "nfproxy:", err)
		return 1
	}
	return 0
}

// newApp returns the command line. Output goes to stdout; errors and the log go to stderr. signals are those that end it.
func newApp(version string, stdout, stderr io.Writer, signals *terminations) *cli.App {
	commands := []*cli.Command{runCommand(signals), statusCommand(), verifyCommand(), dumpCommand(), explainCommand(), traceCommand(), topCommand(), checkCommand(),
		cleanupCommand(), demoCommand(), completionCommand(), versionCommand()}
	app := newCommandLine("nfproxy", 1, commands, version, stdout, stderr)
	app.Usage = "a Kubernetes service proxy for Linux that needs nothing but nftables"
	return app
}

// newCommandLine returns the command line of a program that errors name. unknown is the exit code after an unknown command.
func newCommandLine(program string, unknown int, commands []*cli.Command, version string, stdout, stderr io.Writer) *cli.App {
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = usageError
	}
	return &cli.App{
		Name:            program,
		Version:         version,
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		// Main prints errors, once.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(c.App.ErrWriter, "%s: unknown command %q; %s --help lists the commands\n", program, name, c.App.Name)
			cli.OsExiter(unknown)
		},
		Commands: commands,
	}
}

// usageError returns an error of one line, in place of the whole help.
func usageError(c *cli.Context, err error, _ bool) error {
	return fmt.Errorf("%s: %w; --help lists the flags", c.Command.Name, err)
}

// noArguments returns an error for arguments after the flags. Most often such an argument is a flag without its dashes.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return fmt.Errorf("%s takes no arguments; unexpected %q", c.Command.Name, c.Args().First())
	}
	return nil
}
