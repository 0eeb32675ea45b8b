//go:build linux

package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"
)

// options are the sizes of a run.
type options struct {
	Duration time.Duration // of the load, from the first complete programming on
	Services int           // most Services at a time
	Flows    int           // conntrack entries inserted by netlink
	Rate     int           // changes of manifests per second
	Restart  time.Duration // between two restarts in the first half, by SIGTERM and by a changed configuration in turn
	Sample   time.Duration // between two samples
	Foreign  time.Duration // between two commits of the foreign program
	Deletion time.Duration // between two elements that the foreign program deletes
	Settle   time.Duration // for nfproxy to program the last changes
	Seed     uint64        // of the random changes
	Program  string        // path of nfproxy
	Out      string        // directory of the results
}

// parseOptions reads the flags of the command.
func parseOptions(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("soak", flag.ContinueOnError)
	flags.DurationVar(&o.Duration, "duration", time.Hour, "time under load")
	flags.IntVar(&o.Services, "services", 20_000, "number of Services")
	flags.IntVar(&o.Flows, "flows", 200_000, "number of conntrack entries that are inserted by netlink")
	flags.IntVar(&o.Rate, "rate", 200, "changes per second")
	flags.DurationVar(&o.Restart, "restart", 5*time.Minute, "time between two restarts in the first half, by SIGTERM and by a changed configuration in turn")
	flags.DurationVar(&o.Sample, "sample", 20*time.Second, "time between two samples")
	flags.DurationVar(&o.Foreign, "foreign", 15*time.Second, "time between two commits of another program")
	flags.DurationVar(&o.Deletion, "deletion", 30*time.Second, "time between two elements of nfproxy that another program deletes")
	flags.DurationVar(&o.Settle, "settle", 5*time.Minute, "time for nfproxy to program the last changes")
	flags.Uint64Var(&o.Seed, "seed", uint64(time.Now().UnixNano()), "seed of the random changes")
	flags.StringVar(&o.Program, "nfproxy", "./nfproxy", "path of nfproxy")
	flags.StringVar(&o.Out, "out", "", "directory of the results, which must exist")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.Out == "" {
		return o, errors.New("-out is missing")
	}
	if o.Services < minServices {
		return o, errors.New("-services is too small")
	}
	o.Restart = min(o.Restart, o.Duration/6) // so that a short run has both kinds
	o.Sample = min(o.Sample, o.Duration/20)
	return o, nil
}

// command returns the command that repeats the run.
func (o options) command() string {
	return fmt.Sprintf("make soak DURATION=%s SERVICES=%d FLOWS=%d RATE=%d SEED=%d", short(o.Duration), o.Services, o.Flows, o.Rate, o.Seed)
}

// short formats a duration without zero minutes and seconds: "1h" instead of "1h0m0s".
func short(d time.Duration) string {
	return strings.ReplaceAll(strings.ReplaceAll(d.String(), "m0s", "m"), "h0m", "h")
}
