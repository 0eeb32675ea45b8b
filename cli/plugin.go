package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// pluginName is the name by which this program is the kubectl plugin: kubectl runs it for `kubectl nfproxy`.
const pluginName = "kubectl-nfproxy"

// isPlugin reports whether the program was called by the name of the plugin.
func isPlugin(program string) bool { return filepath.Base(program) == pluginName }

// The exit codes of the plugin. docs/kubectl-plugin.md lists them.
const (
	exitFound    = 1 // every node answered, and something is wrong
	exitNoAnswer = 2 // at least one node did not answer
	exitNotAsked = 3 // no node was asked: wrong arguments, no DaemonSet, a missing right, no API server
)

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

// exitCode returns the exit code of an error of a command of the plugin.
func exitCode(err error) int {
	if e, ok := errors.AsType[exitError](err); ok {
		return e.code
	}
	return exitNotAsked
}

// pluginMain runs the command line args[1:] of the plugin, and returns the exit code of the process.
func pluginMain(ctx context.Context, app *cli.App, args []string) int {
	if len(args) > 2 {
		args = append(args[:2:2], flagsFirst(args[2:])...)
	}
	if err := app.RunContext(ctx, args); err != nil {
		fmt.Fprintf(app.ErrWriter, "%s: %v\n", pluginName, err)
		return exitCode(err)
	}
	return 0
}

// newPluginApp returns the command line of the plugin.
func newPluginApp(version string, stdout, stderr io.Writer) *cli.App {
	commands := []*cli.Command{fleetStatusCommand(), fleetVerifyCommand(), fleetExplainCommand(), fleetDumpCommand(), fleetCheckCommand(),
		fleetTopCommand(), versionCommand()}
	app := newCommandLine(pluginName, exitNotAsked, commands, version, stdout, stderr)
	app.Name, app.Usage = "kubectl nfproxy", "ask nfproxy on every node of a cluster"
	return app
}

// fleetCommand returns a command of the plugin: with the flags that select the cluster and the nodes after its own. limit is how long a
// node may take unless the user says otherwise.
func fleetCommand(c *cli.Command, limit time.Duration) *cli.Command {
	c.Flags = append(c.Flags,
		&cli.StringFlag{Name: "kubeconfig", Usage: "`FILE` with the address and the credentials of the API server (default: as kubectl)"},
		&cli.StringFlag{Name: "context", Usage: "`NAME` of the context in the kubeconfig (default: the current one)"},
		&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "`NAMESPACE` of the DaemonSet (default: all are searched)"},
		&cli.StringFlag{Name: "daemonset", Usage: "`NAME` of the DaemonSet (default: the one with the label app.kubernetes.io/name=nfproxy)"},
		&cli.StringFlag{Name: "service-proxy-name", Usage: "`NAME` of the nfproxy that is meant, if it runs with this flag"},
		&cli.StringSliceFlag{Name: "nodes", Usage: "`NODE[,NODE...]` to ask (default: all)"},
		&cli.StringFlag{Name: "selector", Aliases: []string{"l"}, Usage: "`LABELS` of the nodes to ask, as kubectl's -l"},
		&cli.IntFlag{Name: "parallel", Value: 20, Usage: "`NUMBER` of nodes that are asked at the same time"},
		&cli.DurationFlag{Name: "node-timeout", Value: limit, Usage: "`TIME` that a node may take"},
	)
	return c
}

// flagsFirst returns the arguments of a command with its flags before the others. kubectl's users write them in any order, and the
// library reads none after the first argument. None of the plugin's flags is without a value.
func flagsFirst(args []string) []string {
	var flags, others []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "--":
			return slices.Concat(flags, []string{"--"}, others, args[i+1:])
		case len(a) < 2 || a[0] != '-':
			others = append(others, a)
		case strings.Contains(a, "=") || a == "--help" || a == "-h" || i+1 == len(args):
			flags = append(flags, a)
		default:
			flags = append(flags, a, args[i+1])
			i++
		}
	}
	return append(flags, others...)
}
