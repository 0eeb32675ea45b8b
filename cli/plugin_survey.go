package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/klog/v2"

	"nfproxy/fleet"
	"nfproxy/render"
)

// nodeReport is what is known from one node, for -o json.
type nodeReport struct {
	Node    string `json:"node"`
	Pod     string `json:"pod,omitempty"`
	Answer  any    `json:"answer,omitempty"`
	Refusal string `json:"refusal,omitempty"` // an error of nfproxy that is the answer
	Failure string `json:"failure,omitempty"` // why there is no answer
}

// fleetReport is what the commands of the plugin print with -o json. Groups or Total summarise the answers.
type fleetReport struct {
	DaemonSet   string       `json:"daemonSet"`
	Asked       int          `json:"asked"`
	Answered    int          `json:"answered"`
	Nodes       []nodeReport `json:"nodes"`
	NotSelected []string     `json:"notSelected"`
	Groups      any          `json:"groups,omitempty"`
	Total       any          `json:"total,omitempty"`
}

// survey is the answers of all nodes to one command, decoded as T.
type survey[T any] struct {
	fleet.Fleet
	answers []fleet.Answer
	decoded []T // by the index of answers; zero for nodes without an answer
}

// ask runs nfproxy with arguments on the nodes that the flags select, and decodes the JSON that it prints, an object with the field. The
// target, if not empty, is the last argument.
func ask[T any](c *cli.Context, field, target string, args ...string) (survey[T], error) {
	var s survey[T]
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // client-go's messages repeat the errors that it returns
	limits := fleet.Limits{Parallel: c.Int("parallel"), PerNode: c.Duration("node-timeout")}
	if limits.Parallel < 1 || limits.PerNode <= 0 {
		return s, fmt.Errorf("--parallel and --node-timeout must be positive: %d, %s", limits.Parallel, limits.PerNode)
	}
	if slices.Contains(c.StringSlice("nodes"), "") {
		return s, errors.New("--nodes contains an empty name")
	}
	name := c.String(serviceProxyNameFlag)
	if _, err := render.NewInstance(name); err != nil {
		return s, fmt.Errorf("--%s: %w", serviceProxyNameFlag, err)
	}
	if name != "" {
		args = append(args, "--"+serviceProxyNameFlag+"="+name)
	}
	if target != "" {
		args = append(args, target)
	}
	config, err := fleet.Access{Kubeconfig: c.String("kubeconfig"), Context: c.String("context")}.Config()
	if err != nil {
		return s, err
	}
	client, err := fleet.NewClient(config, c.App.Version)
	if err != nil {
		return s, err
	}
	s.Fleet, err = client.Find(c.Context, fleet.Query{Namespace: c.String("namespace"), DaemonSet: c.String("daemonset"),
		ServiceProxyName: name, Nodes: c.StringSlice("nodes"), Selector: c.String("selector")})
	if err != nil {
		return s, err
	}
	p := newProgress(c.App.ErrWriter, len(s.Targets))
	s.decoded = make([]T, len(s.Targets))
	finished := 0
	s.answers = client.Run(c.Context, s.Targets, args, limits, func(i int, a *fleet.Answer) {
		a.Decode(&s.decoded[i], field, c.App.Version)
		finished++
		p.done(finished)
	})
	p.end()
	return s, nil
}

// answered returns the indices of the answers.
func (s survey[T]) answered() []int {
	var all []int
	for i, a := range s.answers {
		if a.Failure == "" {
			all = append(all, i)
		}
	}
	return all
}

// report returns the report for -o json.
func (s survey[T]) report() fleetReport {
	r := fleetReport{DaemonSet: s.DaemonSet, Asked: len(s.answers), Answered: len(s.answered()), Nodes: []nodeReport{}, NotSelected: append([]string{}, s.NotSelected...)}
	for i, a := range s.answers {
		n := nodeReport{Node: a.Node, Pod: a.Pod, Failure: a.Failure}
		switch {
		case a.Failure == "" && a.Said != "":
			n.Refusal = a.Said
		case a.Failure == "":
			n.Answer = s.decoded[i]
		}
		r.Nodes = append(r.Nodes, n)
	}
	return r
}

// write prints the report with -o json, and otherwise the text and which nodes did not answer. It returns the error with the exit code
// of the command. found, if not empty, says what is wrong on nodes that answered.
func (s survey[T]) write(c *cli.Context, r fleetReport, text, found string) error {
	var err error
	if c.String("output") == "json" {
		err = writeJSON(c.App.Writer, r)
	} else {
		_, err = io.WriteString(c.App.Writer, text+s.silent())
	}
	if err != nil {
		return err
	}
	return s.verdict(found)
}

// verdict returns the error with the exit code of the command. found, if not empty, says what is wrong on nodes that answered.
func (s survey[T]) verdict(found string) error {
	missing := len(s.answers) - len(s.answered())
	switch {
	case missing > 0:
		if found != "" {
			found = "; " + found
		}
		return exitError{fmt.Errorf("no answer from %d of %s%s", missing, count(len(s.answers), "node"), found), exitNoAnswer}
	case found != "":
		return exitError{errors.New(found), exitFound}
	}
	return nil
}

// silent lists the nodes that did not answer, by reason, and those on which the DaemonSet does not run. Reasons that differ only in the
// names of Pods are one.
func (s survey[T]) silent() string {
	byReason := make(map[string][]fleet.Answer)
	var reasons []string
	for _, a := range s.answers {
		if a.Failure == "" {
			continue
		}
		reason := a.Failure
		if a.Pod != "" {
			reason = strings.ReplaceAll(reason, a.Pod, "POD")
		}
		if byReason[reason] == nil {
			reasons = append(reasons, reason)
		}
		byReason[reason] = append(byReason[reason], a)
	}
	var b strings.Builder
	for _, reason := range reasons {
		var names []string
		for _, a := range byReason[reason] {
			names = append(names, a.Node)
		}
		if len(names) == 1 {
			reason = byReason[reason][0].Failure
		}
		fmt.Fprintf(&b, "no answer from %s: %s\n", nodeList(names), printable(reason))
	}
	if len(s.NotSelected) > 0 {
		fmt.Fprintf(&b, "the DaemonSet %s does not select %s\n", s.DaemonSet, nodeList(s.NotSelected))
	}
	return b.String()
}

// nodeList returns the names of nodes, with their number if there are several.
func nodeList(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%d nodes (%s)", len(names), strings.Join(names, ", "))
}

// count returns a number with a noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
