package cli

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func fleetTopCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:      "top",
		Usage:     "show the connections per second of Services, summed over the nodes, the busiest first",
		ArgsUsage: targetArgument,
		Description: "top runs nfproxy top once on every node, and adds up the rates and the totals. The nodes are not read at the same\n" +
			"moment.",
		Flags: []cli.Flag{
			outputFlag("text", "json"),
			&cli.StringFlag{Name: "by", Value: "service", Usage: "`WHAT` a line shows: service, or endpoint if endpoints are counted"},
			&cli.DurationFlag{Name: "interval", Value: time.Second, Usage: "`TIME` between the two readings of a node"},
		},
		Action: func(c *cli.Context) error {
			by, interval := c.String("by"), c.Duration("interval")
			if err := checkTopFlags(by, interval); err != nil {
				return err
			}
			if interval >= c.Duration("node-timeout") {
				return fmt.Errorf("--node-timeout %s must be longer than --interval %s", c.Duration("node-timeout"), interval)
			}
			if _, err := targetOfArgument(c); err != nil {
				return err
			}
			s, err := ask[topResult](c, "rows", c.Args().First(), "top", "-o", "json", "--by", by, "--interval", interval.String())
			if err != nil {
				return err
			}
			var all [][]topLine
			for _, i := range s.answered() {
				all = append(all, s.decoded[i].Rows)
			}
			sum := sumRates(all)
			var b strings.Builder
			if err := topTable(&b, rowsOf(sum), by == "endpoint"); err != nil {
				return err
			}
			r := s.report()
			r.Total = topResult{sum}
			return s.write(c, r, b.String(), "")
		},
	}, 30*time.Second)
}

// sumRates adds up the lines of several nodes, the busiest first.
func sumRates(nodes [][]topLine) []topLine {
	type key struct{ service, endpoint string }
	sums := make(map[key]*topLine)
	for _, lines := range nodes {
		for _, l := range lines {
			k := key{l.Service, l.Endpoint}
			sum := sums[k]
			if sum == nil {
				sum = &topLine{Service: l.Service, Endpoint: l.Endpoint}
				sums[k] = sum
			}
			for _, kind := range l.Kinds {
				if !slices.Contains(sum.Kinds, kind) {
					sum.Kinds = append(sum.Kinds, kind)
				}
			}
			sum.Connections = finiteSum(sum.Connections, l.Connections)
			sum.Refused = finiteSum(sum.Refused, l.Refused)
			sum.Dropped = finiteSum(sum.Dropped, l.Dropped)
			sum.Total += l.Total
		}
	}
	all := []topLine{}
	for _, l := range sums {
		slices.Sort(l.Kinds)
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b topLine) int {
		return cmp.Or(cmp.Compare(b.rate(), a.rate()), cmp.Compare(b.Total, a.Total), strings.Compare(a.Service, b.Service), strings.Compare(a.Endpoint, b.Endpoint))
	})
	return all
}

// finiteSum adds numbers of a node. JSON has no infinity, so one node with absurd numbers must not make the sum infinite.
func finiteSum(a, b float64) float64 { return max(-math.MaxFloat64, min(math.MaxFloat64, a+b)) }
