package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
	"nfproxy/report"
	"nfproxy/running"
)

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "print what the running daemon reports: its version, whether the kernel has everything, and problems",
		Description: "status finds the nfproxy daemon that runs in this network namespace, and reads its /readyz, /healthz and /metrics at\n" +
			"the addresses of its settings. The exit code is 1 if there is a problem or no answer.",
		Flags:  []cli.Flag{config.InstanceFlag(), outputFlag("text", "json")},
		Before: noArguments,
		Action: statusAction,
	}
}

func statusAction(c *cli.Context) error {
	d, err := daemonOf(c)
	if err != nil {
		return err
	}
	s, err := running.Read(c.Context, d.Node.Name, running.Addresses{Healthz: d.Healthz, Metrics: d.Metrics})
	if err != nil {
		return fmt.Errorf("the nfproxy daemon, process %d: %w", d.PID, err)
	}
	if c.String("output") == "json" {
		err = writeJSON(c.App.Writer, s)
	} else {
		err = writeStatus(c.App.Writer, s)
	}
	if err == nil && len(s.Problems) > 0 {
		err = fmt.Errorf("problems of the daemon: %d", len(s.Problems))
	}
	return err
}

// writeStatus prints one line for each fact.
func writeStatus(w io.Writer, s running.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "%s\t%s\n", name, report.Printable(value)) }
	row("node", s.Node)
	row("version", report.OrDash(s.Version))
	row("ready", s.Readiness)
	row("healthy", yesNo(s.Healthy))
	row("eligible", yesNo(s.Eligible))
	row("in sync", inSync(s))
	row("last commit", lastCommit(s))
	row("services", number(s.Services))
	row("quarantined", number(s.Quarantined))
	row("repairs", number(s.Repairs))
	row("failed rounds", number(s.SyncFailures))
	if len(s.Problems) == 0 {
		row("problems", "none")
	}
	for _, p := range s.Problems {
		row("problem", p)
	}
	return t.Flush()
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "-"
	case *b:
		return "yes"
	}
	return "no"
}

func number(n *int) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

// inSync returns for how long the node has been in sync. A daemon that serves no metrics, of which the version is one, does not tell.
func inSync(s running.Status) string {
	switch {
	case s.Version == "":
		return "-"
	case s.InSyncSince == nil:
		return "no"
	}
	return "for " + age(s.At.Sub(*s.InSyncSince))
}

// lastCommit returns how long ago the tables changed last.
func lastCommit(s running.Status) string {
	switch {
	case s.Version == "":
		return "-"
	case s.LastCommit == nil:
		return "never"
	}
	return age(s.At.Sub(*s.LastCommit)) + " ago"
}

// age returns a duration with one or two units, as kubectl prints it. A clock that was set back makes it 0.
func age(d time.Duration) string {
	switch d = max(0, d); {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	case d >= time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	}
	return "0s"
}
