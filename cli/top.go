package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gdamore/tcell/v2"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"nfproxy/config"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name:      "top",
		Usage:     "show the connections per second of Services, the busiest first",
		ArgsUsage: targetArgument,
		Description: "top reads the kernel's counters and needs no running nfproxy. It counts connections that were sent to an\n" +
			"endpoint, refused or dropped. On a terminal it runs until q or Ctrl-C; otherwise, and with --once or -o json, it\n" +
			"reads the counters twice and prints one table.",
		Flags: []cli.Flag{
			config.InstanceFlag(),
			outputFlag("text", "json"),
			&cli.StringFlag{Name: "by", Value: "service", Usage: "`WHAT` a line shows: service, or endpoint if endpoints are counted"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between two readings"},
			&cli.BoolFlag{Name: "once", Usage: "print one table"},
		},
		Action: topAction,
	}
}

// minInterval is the shortest --interval.
const minInterval = 100 * time.Millisecond

func topAction(c *cli.Context) error {
	by, interval := c.String("by"), c.Duration("interval")
	if err := checkTopFlags(by, interval); err != nil {
		return err
	}
	target, err := targetOfArgument(c)
	if err != nil {
		return err
	}
	instance, err := config.InstanceOf(c)
	if err != nil {
		return err
	}
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	m := &meter{byEndpoint: by == "endpoint"}
	read := func() ([]topRow, error) {
		d, err := readCounted(k, instance, m.byEndpoint)
		if err != nil {
			return nil, err
		}
		d, err = target.Select(d)
		return m.rows(d, time.Now()), err
	}
	rows, err := read()
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	if c.Bool("once") || c.String("output") == "json" || !isTerminal(c.App.Writer) {
		return topOnce(c, m.byEndpoint, read, tick.C)
	}
	return topLive(c, &topScreen{byEndpoint: m.byEndpoint, read: read, rows: rows}, tick.C)
}

// checkTopFlags returns an error for values that --by and --interval cannot have.
func checkTopFlags(by string, interval time.Duration) error {
	if by != "service" && by != "endpoint" {
		return fmt.Errorf("--by must be service or endpoint, not %q", by)
	}
	if interval < minInterval {
		return fmt.Errorf("--interval must be at least %s, not %s", minInterval, interval)
	}
	return nil
}

// readCounted reads the counters of an instance in the kernel. It returns an error if there are none.
func readCounted(k *kernel.Conn, i render.Instance, byEndpoint bool) (report.Description, error) {
	by := render.CountServices
	if byEndpoint {
		by = render.CountEndpoints
	}
	tables, err := k.ReadSets(report.CountedSets(by), i.TableIDs()...)
	if err != nil {
		return report.Description{}, err
	}
	counted := report.CountedIn(tables)
	switch {
	case len(tables) == 0:
		err = report.NoTablesError(i)
	case counted == render.CountNothing:
		err = errors.New("connections are not counted; nfproxy run --connection-counters services enables that")
	case byEndpoint && counted != render.CountEndpoints:
		err = errors.New("connections are not counted by endpoint; nfproxy run --connection-counters endpoints enables that")
	}
	return report.Describe(tables), err
}

// topOnce waits for a tick and prints the rates since the first reading.
func topOnce(c *cli.Context, byEndpoint bool, read func() ([]topRow, error), tick <-chan time.Time) error {
	select {
	case <-c.Done():
		return c.Err()
	case <-tick:
	}
	rows, err := read()
	if err != nil {
		return err
	}
	if c.String("output") == "json" {
		return writeJSON(c.App.Writer, topResult{linesOf(rows)})
	}
	return topTable(c.App.Writer, rows, byEndpoint)
}

// topLive shows the table on the terminal until the user quits.
func topLive(c *cli.Context, s *topScreen, tick <-chan time.Time) error {
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("terminal %q: %w; --once prints one table", os.Getenv("TERM"), err)
	}
	defer screen.Fini()
	s.Screen = screen
	return s.show(c.Context, tick)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
