package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/watcher"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:  "verify",
		Usage: "compare the kernel's tables with what the API server says now, with the settings of the running daemon",
		Description: "verify finds the nfproxy daemon that runs in this network namespace, reads its arguments, its environment and its\n" +
			"file of --config, and gets all Services from the same source by a connection of its own. It changes nothing. A\n" +
			"difference counts only if it stays the same for --patience: changes in flight do not count. verify prints how many\n" +
			"frontends it compared, and each that differs with the commands that would fix it. The exit code is 1 if any differs.",
		Flags: []cli.Flag{
			config.InstanceFlag(),
			outputFlag("text", "json"),
			&cli.DurationFlag{Name: "patience", Value: 5 * time.Second, Usage: "how long a difference must last; --min-sync-period of the daemon is added: `TIME`"},
			&cli.DurationFlag{Name: "limit", Value: 25 * time.Second, Usage: "how much longer than that verify looks at differences that keep changing; then it only counts them: `TIME`"},
		},
		Before: noArguments,
		Action: verifyAction,
	}
}

// verifyInterval is the time between two comparisons.
const verifyInterval = 500 * time.Millisecond

// verified is what verify prints.
type verified struct {
	Node    string `json:"node"`
	Version string `json:"version"` // of this program
	Source  string `json:"source"`
	report.Verification
}

// errUnequal is the error of verify if the tables differ from the desired state.
var errUnequal = errors.New("the kernel's tables differ from what the API server says")

func verifyAction(c *cli.Context) error {
	if c.Duration("patience") < 0 || c.Duration("limit") < 0 {
		return fmt.Errorf("--patience and --limit must not be negative: %s, %s", c.Duration("patience"), c.Duration("limit"))
	}
	dieFirst()
	d, err := daemonOf(c)
	if err != nil {
		return err
	}
	if err := d.AdoptDirectory(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelError}))
	source, err := watcher.Open(d.Settings, c.App.Version, log)
	if err != nil {
		return err
	}
	defer source.Close()
	patience := c.Duration("patience") + d.MinSyncPeriod
	v := report.NewVerifier(source.Node, patience)
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	updates, failed := followUpdates(ctx, source)
	select {
	case u := <-updates:
		v.Update(u)
	case err := <-failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(snapshotTimeout):
		return fmt.Errorf("%s did not list the Services within %s", source.Name, snapshotTimeout)
	}
	result, err := verifyUntilSettled(ctx, v, updates, failed, d.Node.Instance, patience+c.Duration("limit"))
	if err != nil {
		return err
	}
	all := verified{Node: d.Node.Name, Version: c.App.Version, Source: source.Name, Verification: result}
	if c.String("output") == "json" {
		err = writeJSON(c.App.Writer, all)
	} else {
		err = writeVerified(c.App.Writer, all)
	}
	if err == nil && !result.OK() {
		err = errUnequal
	}
	return err
}

// dieFirst makes the kernel kill this process before any other of its cgroup if memory runs out: not the daemon, in whose container it
// may run. On failure the process keeps its score.
func dieFirst() { _ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0) }

// followUpdates returns the updates of a source until ctx is done, and the error with which they end before.
func followUpdates(ctx context.Context, source *watcher.Source) (<-chan render.Update, <-chan error) {
	updates, failed := make(chan render.Update), make(chan error, 1)
	go func() {
		for {
			u, err := source.Next(ctx)
			if err != nil {
				failed <- err
				return
			}
			select {
			case updates <- u:
			case <-ctx.Done():
				return
			}
		}
	}()
	return updates, failed
}

// verifyUntilSettled compares the tables with the source until nothing is changing, or until the limit.
func verifyUntilSettled(ctx context.Context, v *report.Verifier, updates <-chan render.Update, failed <-chan error, i render.Instance,
	limit time.Duration) (report.Verification, error) {
	deadline := time.Now().Add(limit)
	for {
		tables, err := readTables(i)
		if err != nil {
			return report.Verification{}, err
		}
		now := time.Now()
		result := v.Look(tables, now)
		if result.Changing == 0 || now.After(deadline) {
			return result, nil
		}
		for pause := time.After(verifyInterval); pause != nil; {
			select {
			case u := <-updates:
				v.Update(u)
			case <-pause:
				pause = nil
			case err := <-failed:
				return report.Verification{}, err
			case <-ctx.Done():
				return report.Verification{}, ctx.Err()
			}
		}
	}
}

// writeVerified prints a result as text.
func writeVerified(w io.Writer, v verified) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", v.Node, verificationSummary(v.Verification))
	writeDifferences(&b, v.Verification)
	_, err := io.WriteString(w, b.String())
	return err
}

// verificationSummary returns the numbers of a result in one line.
func verificationSummary(v report.Verification) string {
	return fmt.Sprintf("frontends compared: %d, differing: %d", v.Compared, len(v.Differing)) + optionalCounts(v.OtherCount, v.Changing, v.Growing)
}

// optionalCounts returns those numbers of a result that are not 0.
func optionalCounts(other, changing, growing int) string {
	text := ""
	for _, more := range []struct {
		n    int
		what string
	}{{other, "other differences"}, {changing, "still changing"}, {growing, "in slow start"}} {
		if more.n > 0 {
			text += fmt.Sprintf(", %s: %d", more.what, more.n)
		}
	}
	return text
}

// writeDifferences prints each frontend that differs, and the commands that would fix it.
func writeDifferences(b *strings.Builder, v report.Verification) {
	for _, d := range v.Differing {
		service := d.Service
		if service == "" {
			service = "no Service"
		}
		frontend := fmt.Sprintf("%s %s/%s", service, netip.AddrPortFrom(d.Address, d.Port), strings.ToLower(d.Protocol))
		fmt.Fprintf(b, "  %s\n", report.Printable(frontend))
		for _, fix := range d.Fixes {
			fmt.Fprintf(b, "    to be fixed by: %s\n", report.Printable(fix))
		}
	}
	for _, fix := range v.Other {
		fmt.Fprintf(b, "  not of one frontend\n    to be fixed by: %s\n", report.Printable(fix))
	}
}
