package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/fleet"
	"nfproxy/report"
	"nfproxy/running"
)

func fleetStatusCommand() *cli.Command {
	return fleetCommand(&cli.Command{
		Name:  "status",
		Usage: "print one line for each node, the worst first: version, in sync since, Services, problems, last commit, repairs",
		Description: "status runs nfproxy status on every node. A node is in sync since the first round that succeeded after the start or\n" +
			"after a failure. The exit code is 1 if a node has a problem.",
		Flags:  []cli.Flag{outputFlag("text", "json")},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			s, err := ask[running.Status](c, "ready", "", "status", "-o", "json")
			if err != nil {
				return err
			}
			text, found := statusTable(s.answers, s.decoded)
			r := s.report()
			order := worstFirst(s.answers, s.decoded)
			r.Nodes = pick(r.Nodes, order)
			s.answers, s.decoded = pick(s.answers, order), pick(s.decoded, order)
			return s.writeTable(c, r, text, found)
		},
	}, 30*time.Second)
}

// writeTable is write for a table that has the nodes without an answer, too.
func (s survey[T]) writeTable(c *cli.Context, r fleetReport, text, found string) error {
	if len(s.NotSelected) > 0 {
		text += fmt.Sprintf("the DaemonSet %s does not select %s\n", s.DaemonSet, nodeList(s.NotSelected))
	}
	if c.String("output") != "json" {
		if _, err := fmt.Fprint(c.App.Writer, text); err != nil {
			return err
		}
	} else if err := writeJSON(c.App.Writer, r); err != nil {
		return err
	}
	return s.verdict(found)
}

// worstFirst returns the indices of the answers: nodes without an answer, nodes that are not ready, nodes with problems, the others.
func worstFirst(answers []fleet.Answer, statuses []running.Status) []int {
	rank := func(i int) int {
		switch s := statuses[i]; {
		case answers[i].Failure != "":
			return 0
		case !s.Ready || s.Healthy != nil && !*s.Healthy:
			return 1
		case len(s.Problems) > 0:
			return 2
		}
		return 3
	}
	order := make([]int, len(answers))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(rank(a)-rank(b), len(statuses[b].Problems)-len(statuses[a].Problems), strings.Compare(answers[a].Node, answers[b].Node))
	})
	return order
}

// pick returns the elements at indices.
func pick[T any](all []T, indices []int) []T {
	picked := make([]T, len(indices))
	for i, at := range indices {
		picked[i] = all[at]
	}
	return picked
}

// statusTable returns the table of the nodes and, in a few words, whether something is wrong.
func statusTable(answers []fleet.Answer, statuses []running.Status) (table, found string) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "NODE\tVERSION\tIN SYNC\tSERVICES\tQUARANTINED\tLAST COMMIT\tREPAIRS\tPROBLEMS")
	versions := make(map[string][]string)
	wrong := 0
	for _, i := range worstFirst(answers, statuses) {
		a, s := answers[i], statuses[i]
		if a.Failure != "" {
			fmt.Fprintf(t, "%s\t-\t-\t-\t-\t-\t-\tno answer: %s\n", a.Node, printable(a.Failure))
			continue
		}
		if len(s.Problems) > 0 {
			wrong++
		}
		versions[s.Version] = append(versions[s.Version], a.Node)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.Node, report.OrDash(printable(s.Version)), inSync(s), number(s.Services),
			number(s.Quarantined), lastCommit(s), number(s.Repairs), report.OrDash(printable(strings.Join(s.Problems, "; "))))
	}
	t.Flush()
	if len(versions) > 1 {
		b.WriteString("versions: " + versionList(versions) + "\n")
	}
	if wrong > 0 {
		found = "problems on " + count(wrong, "node")
	}
	return b.String(), found
}

// versionList returns the versions with the number of their nodes, the most frequent first.
func versionList(versions map[string][]string) string {
	var names []string
	for v := range versions {
		names = append(names, v)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(versions[b])-len(versions[a]), strings.Compare(a, b)) })
	for i, v := range names {
		names[i] = fmt.Sprintf("%s on %s", report.OrDash(printable(v)), nodeList(versions[v]))
	}
	return strings.Join(names, ", ")
}

// printable is report.Printable, which keeps text from the cluster from controlling the terminal.
func printable(s string) string { return report.Printable(s) }
