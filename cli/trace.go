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

	"nfproxy/config"
	"nfproxy/report"
	"nfproxy/trace"
)

// maxTraceTimeout is the largest --timeout.
const maxTraceTimeout = 24 * time.Hour

func traceCommand() *cli.Command {
	return &cli.Command{
		Name:  "trace",
		Usage: "trace the first packets of new connections to a Service through the kernel",
		Description: "trace shows real packets as the kernel reports them; it sends none. To select the packets it adds a table of its\n" +
			"own, which is removed when it ends. The exit code is 1 if there was no packet. docs/trace.md explains the output.",
		Flags: []cli.Flag{
			targetFlag("a Service stands for all its addresses; its namespace is default unless given"),
			&cli.StringFlag{Name: "from", Usage: "`CIDR` or address of the sources (default: any)"},
			&cli.IntFlag{Name: "count", Value: 10, Usage: "end after `NUMBER` packets"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Second, Usage: "end after this `TIME`"},
			config.InstanceFlag(),
			outputFlag("text", "json"),
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			request, err := traceRequest(c)
			if err != nil {
				return err
			}
			return tracePackets(c.Context, request, tracePrinter(c.String("output"), c.App.Writer), c.App.ErrWriter)
		},
	}
}

// traceRequest parses the flags.
func traceRequest(c *cli.Context) (r trace.Request, err error) {
	if r.Instance, err = config.InstanceOf(c); err != nil {
		return r, err
	}
	if r.To, err = targetOfFlag(c); err != nil {
		return r, err
	}
	if from := c.String("from"); from != "" {
		if r.From, err = parseSources(from); err != nil {
			return r, err
		}
	}
	if r.Count = c.Int("count"); r.Count < 1 || r.Count > trace.MaxTraced {
		return r, fmt.Errorf("--count must be 1 to %d, not %d", trace.MaxTraced, r.Count)
	}
	if r.Timeout = c.Duration("timeout"); r.Timeout < time.Second || r.Timeout > maxTraceTimeout {
		return r, fmt.Errorf("--timeout must be 1s to %s, not %s", maxTraceTimeout, r.Timeout)
	}
	return r, nil
}

func parseSources(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("--from %q is neither a CIDR such as 10.0.0.0/16 or fd00::/64 nor an address", text)
	}
	return p.Masked(), nil
}

func tracePrinter(format string, w io.Writer) func(trace.PacketTrace) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return func(p trace.PacketTrace) error { return e.Encode(p) }
	}
	return func(p trace.PacketTrace) error { return p.Print(w) }
}

// tracePackets prints packet traces until the request is fulfilled. What it traces, and how many packets there were, goes to
// log.
func tracePackets(ctx context.Context, r trace.Request, print func(trace.PacketTrace) error, log io.Writer) error {
	session, err := trace.Open(r)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "tracing up to %d new connections to %s for %s\n", r.Count, destinationsText(r.To, session.To), r.Timeout)
	result, err := session.Run(ctx, print)
	if err := errors.Join(err, session.Close()); err != nil {
		return err
	}
	if result.Missed {
		fmt.Fprintln(log, "the kernel sent more trace events than could be read: packets or steps may be missing")
	}
	if result.Seen == 0 {
		return fmt.Errorf("no new connection to %s; an open connection, or one with a conntrack entry, has no first packet", r.To)
	}
	fmt.Fprintf(log, "packets traced: %d\n", result.Seen)
	return nil
}

// destinationsText is a Service with its frontends, or an address.
func destinationsText(t report.Target, all []trace.Destination) string {
	if t.At.IsValid() {
		return all[0].String()
	}
	var names []string
	for _, d := range all {
		names = append(names, d.String())
	}
	return fmt.Sprintf("%s (%s)", t, strings.Join(names, ", "))
}
