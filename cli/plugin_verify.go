package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

func fleetVerifyCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:  "verify",
		Usage: "compare every node's tables with what the API server says now",
		Description: "verify runs nfproxy verify on every node, which compares the node's tables with a snapshot of its own, by the\n" +
			"settings of the node's daemon. Changes in flight do not count: a difference counts if it stays the same for five\n" +
			"seconds. verify prints how many frontends were compared, and each that differs with its node and the commands that\n" +
			"would fix it. The exit code is 1 if any differs.",
		Flags:  []cli.Flag{outputFlag("text", "json")},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			s, err := ask[verified](c, "compared", "", "verify", "-o", "json")
			if err != nil {
				return err
			}
			text, total := verifiedText(s)
			r := s.report()
			r.Total = total
			found := ""
			if total.NodesDiffering > 0 {
				found = fmt.Sprintf("the tables of %s differ from what the API server says", count(total.NodesDiffering, "node"))
			}
			return s.write(c, r, text, found)
		},
	}, time.Minute)
}

// verifiedTotal sums up the results of verify.
type verifiedTotal struct {
	Compared       int `json:"compared"`
	Differing      int `json:"differing"`
	Other          int `json:"other"`
	Changing       int `json:"changing"`
	Growing        int `json:"growing"`
	NodesDiffering int `json:"nodesDiffering"`
}

// verifiedText prints the nodes whose tables differ, and the sums.
func verifiedText(s survey[verified]) (string, verifiedTotal) {
	var b strings.Builder
	var total verifiedTotal
	for _, i := range s.answered() {
		v := s.decoded[i]
		total.Compared += v.Compared
		total.Differing += len(v.Differing)
		total.Other += v.OtherCount
		total.Changing += v.Changing
		total.Growing += v.Growing
		if v.OK() {
			continue
		}
		total.NodesDiffering++
		fmt.Fprintf(&b, "%s: %s\n", s.answers[i].Node, verificationSummary(v.Verification))
		writeDifferences(&b, v.Verification)
	}
	fmt.Fprintf(&b, "%s compared: frontends compared: %d, differing: %d", count(len(s.answered()), "node"), total.Compared, total.Differing)
	b.WriteString(optionalCounts(total.Other, total.Changing, total.Growing) + "\n")
	return b.String(), total
}
