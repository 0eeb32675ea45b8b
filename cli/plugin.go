package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"

	"nfproxy/fleet"
	"nfproxy/render"
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
	for _, c := range commands {
		c.HideHelpCommand = true
		c.OnUsageError = func(c *cli.Context, err error, sub bool) error {
			return exitError{usageError(c, err, sub), exitNotAsked}
		}
	}
	return &cli.App{
		Name:            "kubectl nfproxy",
		Usage:           "ask nfproxy on every node of a cluster",
		Version:         version,
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    usageError,
		CommandNotFound: func(c *cli.Context, name string) {
			fmt.Fprintf(c.App.ErrWriter, "%s: unknown command %q; kubectl nfproxy --help lists the commands\n", pluginName, name)
			cli.OsExiter(exitNotAsked)
		},
		Commands: commands,
	}
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

// nodeReport is what is known from one node, for -o json.
type nodeReport struct {
	Node    string `json:"node"`
	Pod     string `json:"pod,omitempty"`
	Answer  any    `json:"answer,omitempty"`
	Refusal string `json:"refusal,omitempty"` // an error of nfproxy that is the answer
	Failure string `json:"failure,omitempty"` // why there is no answer
}

// fleetReport is what the commands of the plugin print with -o json. Groups or Total summarise the answers.
type fleetReport struct {
	DaemonSet   string       `json:"daemonSet"`
	Asked       int          `json:"asked"`
	Answered    int          `json:"answered"`
	Nodes       []nodeReport `json:"nodes"`
	NotSelected []string     `json:"notSelected"`
	Groups      any          `json:"groups,omitempty"`
	Total       any          `json:"total,omitempty"`
}

// survey is the answers of all nodes to one command, decoded as T.
type survey[T any] struct {
	fleet.Fleet
	answers []fleet.Answer
	decoded []T // by the index of answers; zero for nodes without an answer
}

// ask runs nfproxy with arguments on the nodes that the flags select, and decodes the JSON that it prints. The target, if not empty, is
// the last argument.
func ask[T any](c *cli.Context, target string, args ...string) (survey[T], error) {
	var s survey[T]
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's messages repeat the errors that it returns
	limits := fleet.Limits{Parallel: c.Int("parallel"), PerNode: c.Duration("node-timeout")}
	if limits.Parallel < 1 || limits.PerNode <= 0 {
		return s, fmt.Errorf("--parallel and --node-timeout must be positive: %d, %s", limits.Parallel, limits.PerNode)
	}
	name := c.String(serviceProxyNameFlag)
	if _, err := render.NewInstance(name); err != nil {
		return s, fmt.Errorf("--%s: %w", serviceProxyNameFlag, err)
	}
	if name != "" {
		args = append(args, "--"+serviceProxyNameFlag+"="+name)
	}
	if target != "" {
		args = append(args, target)
	}
	config, err := fleet.Access{Kubeconfig: c.String("kubeconfig"), Context: c.String("context")}.Config()
	if err != nil {
		return s, err
	}
	client, err := fleet.NewClient(config, c.App.Version)
	if err != nil {
		return s, err
	}
	s.Fleet, err = client.Find(c.Context, fleet.Query{Namespace: c.String("namespace"), DaemonSet: c.String("daemonset"),
		ServiceProxyName: name, Nodes: c.StringSlice("nodes"), Selector: c.String("selector")})
	if err != nil {
		return s, err
	}
	p := newProgress(c.App.ErrWriter, len(s.Targets))
	s.answers = client.Run(c.Context, s.Targets, args, limits, p.done)
	p.end()
	s.decoded = make([]T, len(s.answers))
	for i := range s.answers {
		s.answers[i].Decode(&s.decoded[i], c.App.Version)
	}
	return s, nil
}

// answered returns the indices of the answers.
func (s survey[T]) answered() []int {
	var all []int
	for i, a := range s.answers {
		if a.Failure == "" {
			all = append(all, i)
		}
	}
	return all
}

// report returns the report for -o json.
func (s survey[T]) report() fleetReport {
	r := fleetReport{DaemonSet: s.DaemonSet, Asked: len(s.answers), Answered: len(s.answered()), Nodes: []nodeReport{}, NotSelected: slices.Clip(append([]string{}, s.NotSelected...))}
	for i, a := range s.answers {
		n := nodeReport{Node: a.Node, Pod: a.Pod, Failure: a.Failure}
		switch {
		case a.Failure == "" && a.Said != "":
			n.Refusal = a.Said
		case a.Failure == "":
			n.Answer = s.decoded[i]
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r
}

// write prints the report with -o json, and otherwise the text and which nodes did not answer. It returns the error with the exit code
// of the command. found, if not empty, says what is wrong on nodes that answered.
func (s survey[T]) write(c *cli.Context, r fleetReport, text, found string) error {
	var err error
	if c.String("output") == "json" {
		err = writeJSON(c.App.Writer, r)
	} else {
		_, err = io.WriteString(c.App.Writer, text+s.silent())
	}
	if err != nil {
		return err
	}
	return s.verdict(found)
}

// verdict returns the error with the exit code of the command. found, if not empty, says what is wrong on nodes that answered.
func (s survey[T]) verdict(found string) error {
	missing := len(s.answers) - len(s.answered())
	switch {
	case missing > 0:
		if found != "" {
			found = "; " + found
		}
		return exitError{fmt.Errorf("no answer from %d of %s%s", missing, count(len(s.answers), "node"), found), exitNoAnswer}
	case found != "":
		return exitError{errors.New(found), exitFound}
	}
	return nil
}

// silent lists the nodes that did not answer, by reason, and those on which the DaemonSet does not run.
func (s survey[T]) silent() string {
	byReason := make(map[string][]string)
	var reasons []string
	for _, a := range s.answers {
		if a.Failure == "" {
			continue
		}
		if byReason[a.Failure] == nil {
			reasons = append(reasons, a.Failure)
		}
		byReason[a.Failure] = append(byReason[a.Failure], a.Node)
	}
	var b strings.Builder
	for _, reason := range reasons {
		fmt.Fprintf(&b, "no answer from %s: %s\n", nodeList(byReason[reason]), printable(reason))
	}
	if len(s.NotSelected) > 0 {
		fmt.Fprintf(&b, "the DaemonSet %s does not select %s\n", s.DaemonSet, nodeList(s.NotSelected))
	}
	return b.String()
}

// nodeList returns the names of nodes, with their number if there are several.
func nodeList(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%d nodes (%s)", len(names), strings.Join(names, ", "))
}

// count returns a number with a noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
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
