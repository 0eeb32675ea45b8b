package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"nfproxy/fleet"
	"nfproxy/preflight"
	"nfproxy/running"
)

// TestFlagsFirst: flags may follow the argument, as kubectl's users write them.
func TestFlagsFirst(t *testing.T) {
	for args, want := range map[string]string{
		"web --from 10.0.0.1":         "--from 10.0.0.1 web",
		"-n kube-system web -o=json":  "-n kube-system -o=json web",
		"--nodes a,b web -- -strange": "--nodes a,b -- web -strange",
		"web --help":                  "--help web",
		"web -o":                      "-o web",
	} {
		if got := strings.Join(flagsFirst(strings.Fields(args)), " "); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}

// TestPluginFlagsHaveValues: flagsFirst takes the word after a flag for its value.
func TestPluginFlagsHaveValues(t *testing.T) {
	for _, c := range documented(newPluginApp("", nil, nil)) {
		for _, f := range c.Flags {
			if !f.TakesValue() {
				t.Errorf("%s %v takes no value", c.Name, f.Names())
			}
		}
	}
}

// TestWorstFirst: nodes without an answer come first, then those that are not ready, those with problems, and the others by name.
func TestWorstFirst(t *testing.T) {
	var answers []fleet.Answer
	var statuses []running.Status
	add := func(node, failure string, ready bool, problems ...string) {
		answers = append(answers, fleet.Answer{Target: fleet.Target{Node: node}, Failure: failure})
		statuses = append(statuses, running.Status{Ready: ready, Problems: problems, Version: "v1"})
	}
	add("a", "", true)
	add("b", "", true, "one")
	add("c", "silent", false)
	add("d", "", true, "one", "two")
	add("e", "", false, "not ready")
	var order []string
	for _, i := range worstFirst(answers, statuses) {
		order = append(order, answers[i].Node)
	}
	if got := fmt.Sprint(order); got != "[c e d b a]" {
		t.Errorf("%s", got)
	}
	if _, found := statusTable(answers, statuses); found != "problems on 3 nodes" {
		t.Errorf("%q", found)
	}
}

// TestStatusWithoutMetrics: what only the metrics tell is unknown without them, neither "no" nor "never".
func TestStatusWithoutMetrics(t *testing.T) {
	for _, c := range []struct {
		status running.Status
		want   string
	}{
		{running.Status{}, "- -"},
		{running.Status{Version: "v1"}, "no never"},
		{running.Status{Version: "v1", At: time.Unix(70, 0), InSyncSince: new(time.Unix(10, 0)), LastCommit: new(time.Unix(40, 0))}, "for 1m0s 30s ago"},
	} {
		if got := inSync(c.status) + " " + lastCommit(c.status); got != c.want {
			t.Errorf("%+v: %s, want %s", c.status, got, c.want)
		}
	}
}

// TestSilentNodes: nodes without an answer are listed by reason, also if the reason contains the name of the Pod.
func TestSilentNodes(t *testing.T) {
	var s survey[running.Status]
	for _, a := range [][3]string{{"a", "pod-a", "pods \"pod-a\" is forbidden"}, {"b", "pod-b", "exec in pod pod-b: refused"}, {"c", "", "the node has no Pod"},
		{"d", "pod-d", "pods \"pod-d\" is forbidden"}, {"e", "pod-e", ""}, {"f", "", "the node has no Pod"}} {
		s.answers = append(s.answers, fleet.Answer{Target: fleet.Target{Node: a[0], Pod: a[1]}, Failure: a[2]})
	}
	want := `no answer from 2 nodes (a, d): pods "POD" is forbidden
no answer from b: exec in pod pod-b: refused
no answer from 2 nodes (c, f): the node has no Pod
`
	if got := s.silent(); got != want {
		t.Errorf("%s", got)
	}
}

// TestSumRates: rates and totals of a Service are added up over the nodes.
func TestSumRates(t *testing.T) {
	line := func(service string, rate float64, total uint64, kinds ...string) topLine {
		return topLine{Service: service, Kinds: kinds, Connections: rate, Total: total}
	}
	got := sumRates([][]topLine{
		{line("a", 1, 10, "NodePort"), line("b", 2, 5, "ClusterIP")},
		{line("a", 4, 1, "ClusterIP", "NodePort")},
	})
	if want := "[{a  [ClusterIP NodePort] 5 0 0 11} {b  [ClusterIP] 2 0 0 5}]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// TestSumOfAbsurdRates: the sum can be printed as JSON whatever a node answers.
func TestSumOfAbsurdRates(t *testing.T) {
	for _, rate := range []float64{math.MaxFloat64, -math.MaxFloat64} {
		lines := []topLine{{Service: "a", Connections: rate, Refused: rate, Dropped: rate}}
		if err := writeJSON(io.Discard, sumRates([][]topLine{lines, lines})); err != nil {
			t.Error(err)
		}
	}
}

// TestCheckedText: nodes with the same finding share a line, and problems come first.
func TestCheckedText(t *testing.T) {
	warning := preflight.Line{Level: preflight.Warning, Check: "rp-filter", Finding: "strict", Advice: "loosen it"}
	problem := preflight.Line{Level: preflight.Problem, Check: "kernel", Finding: "too old"}
	fine := preflight.Line{Level: preflight.OK, Check: "kernel", Finding: "new"}
	text, problems := checkedText([]string{"a", "b", "c"}, [][]preflight.Line{{fine, warning}, {problem, warning}, {fine}})
	want := `problem  kernel                 too old
                                on b
warning  rp-filter              strict
                                on 2 nodes (a, b)
                                what to do: loosen it
3 nodes checked: 1 without a finding, 1 with problems
`
	if text != want || problems != 1 {
		t.Errorf("%d problems:\n%s", problems, text)
	}
}
