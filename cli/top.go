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

	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/report"
)

func topCommand() *cli.Command {
	return &cli.Command{
		Name:      "top",
		Usage:     "show the connections per second of Services, the busiest first",
		ArgsUsage: "[[NAMESPACE/]NAME | ADDRESS:PORT]",
		Description: "It reads the kernel's counters and nothing else, with or without a running nfproxy: connections that an\n" +
			"endpoint was chosen for, those refused and those dropped. On a terminal it goes on until q or Ctrl-C; elsewhere,\n" +
			"and with --once, it reads twice and prints one table.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "by", Value: "service", Usage: "what a line is: `WHAT` is service, or endpoint if those are counted"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between two readings"},
			&cli.BoolFlag{Name: "once", Usage: "print one table"},
		},
		Action: topAction,
	}
}

// minInterval keeps top from asking the kernel all the time.
const minInterval = 100 * time.Millisecond

func topAction(c *cli.Context) error {
	by, interval := c.String("by"), c.Duration("interval")
	if by != "service" && by != "endpoint" {
		return fmt.Errorf("--by is service or endpoint, not %s", by)
	}
	if interval < minInterval {
		return fmt.Errorf("--interval: %s is less than %s", interval, minInterval)
	}
	want, err := newSelection(c)
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
		d, err := readCounted(k, m.byEndpoint)
		if err != nil {
			return nil, err
		}
		return m.rows(want.of(d), time.Now()), nil
	}
	rows, err := read()
	if err == nil && want.some() && len(rows) == 0 {
		err = fmt.Errorf("the kernel counts no Service %s", c.Args().First())
	}
	if err != nil {
		return err
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	if c.Bool("once") || !isTerminal(c.App.Writer) {
		return topOnce(c, m.byEndpoint, read, tick.C)
	}
	return topLive(c, &topScreen{byEndpoint: m.byEndpoint, read: read, rows: rows}, tick.C)
}

// readCounted reads what the kernel counts. It is an error if it does not.
func readCounted(k *kernel.Conn, byEndpoint bool) (report.Description, error) {
	by := render.CountServices
	if byEndpoint {
		by = render.CountEndpoints
	}
	tables, err := k.ReadSets(report.CountedSets(by), render.TableIDs()...)
	if err != nil {
		return report.Description{}, err
	}
	is := report.CountedIn(tables)
	switch {
	case len(tables) == 0:
		err = errors.New(noTables)
	case is == render.CountNothing:
		err = errors.New("connections are not counted; nfproxy run --connection-counters services counts them")
	case byEndpoint && is != render.CountEndpoints:
		err = errors.New("endpoints are not counted; nfproxy run --connection-counters endpoints counts them")
	}
	return report.Describe(tables), err
}

// topOnce waits for a tick and prints what came meanwhile.
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
	return topTable(c.App.Writer, rows, byEndpoint)
}

// topLive takes the terminal and gives it back.
func topLive(c *cli.Context, s *topScreen, tick <-chan time.Time) error {
	screen, err := tcell.NewScreen()
	if err == nil {
		err = screen.Init()
	}
	if err != nil {
		return fmt.Errorf("terminal %q: %w; --once prints a table", os.Getenv("TERM"), err)
	}
	defer screen.Fini()
	s.Screen = screen
	return s.show(c.Context, tick)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
