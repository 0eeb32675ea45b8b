package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/trace"
)

// maxTraceTimeout bounds how long a trace goes on.
const maxTraceTimeout = 24 * time.Hour

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:  "trace",
		Usage: "follow the first packets of new connections to a Service through the kernel",
		Description: "Real packets, as the kernel tells of them: nothing is sent. It marks them by a table of its own, which is\n" +
			"gone when it ends. Without any packet the exit code is 1. docs/trace.md explains what it prints.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`ADDRESS:PORT[/PROTOCOL]`, or [NAMESPACE/]SERVICE[:PORT] for all its addresses"},
			&cli.StringFlag{Name: "from", Usage: "`CIDR` or address that packets come from (default: any)"},
			&cli.IntFlag{Name: "count", Value: 10, Usage: "end after so many packets"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "end after this time"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "text, or json: an object for each packet"},
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			request, err := traceRequest(c)
			if err != nil {
				return err
			}
			printer, err := tracePrinter(c.String("output"), c.App.Writer)
			if err != nil {
				return err
			}
			return followPackets(c.Context, request, printer, c.App.ErrWriter)
		},
	}
}

// traceRequest reads the flags.
func traceRequest(c *cli.Context) (r trace.Request, err error) {
	if !c.IsSet("to") {
		return r, errors.New("trace needs to be told what to follow: --to ADDRESS:PORT[/udp|sctp] or --to [NAMESPACE/]NAME[:PORT]")
	}
	if r.To, err = trace.ParseTarget(c.String("to")); err != nil {
		return r, fmt.Errorf("--to: %w", err)
	}
	if from := c.String("from"); from != "" {
		if r.From, err = parseSource(from); err != nil {
			return r, err
		}
	}
	if r.Count = c.Int("count"); r.Count < 1 || r.Count > trace.MaxTraced {
		return r, fmt.Errorf("--count is 1 to %d, not %d", trace.MaxTraced, r.Count)
	}
	if r.Timeout = c.Duration("timeout"); r.Timeout < time.Second || r.Timeout > maxTraceTimeout {
		return r, fmt.Errorf("--timeout is 1s to %s, not %s", maxTraceTimeout, r.Timeout)
	}
	return r, nil
}

func parseSource(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("--from: %q is no CIDR such as 10.0.0.0/16 or fd00::/64, and no address", text)
	}
	return p.Masked(), nil
}

func tracePrinter(format string, w io.Writer) (func(trace.PacketTrace) error, error) {
	switch format {
	case "text":
		return func(j trace.PacketTrace) error { return j.Print(w) }, nil
	case "json":
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return func(j trace.PacketTrace) error { return e.Encode(j) }, nil
	}
	return nil, errors.New("-o is one of text and json, not " + format)
}

// followPackets prints journeys until there were enough, and says on log what it follows and how many it saw.
func followPackets(ctx context.Context, r trace.Request, printer func(trace.PacketTrace) error, log io.Writer) error {
	f, err := trace.Open(r)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "following new connections to %s, at most %d, for %s%s\n", r.To, r.Count, r.Timeout, frontends(r.To, f.To))
	result, err := f.Run(ctx, printer)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if result.Missed {
		fmt.Fprintln(log, "the kernel told more than could be read: there may have been other packets, and steps that are missing")
	}
	if result.Seen == 0 {
		return fmt.Errorf("no new connection to %s was seen; one that is open already, or has an entry in the connection tracking, has no first packet", r.To)
	}
	fmt.Fprintf(log, "followed %d first packets\n", result.Seen)
	return nil
}

// frontends lists what a Service comes to.
func frontends(t trace.Target, all []trace.Destination) string {
	if t.Name == "" {
		return ""
	}
	var names []string
	for _, d := range all {
		names = append(names, d.String())
	}
	return ": " + strings.Join(names, ", ")
}
