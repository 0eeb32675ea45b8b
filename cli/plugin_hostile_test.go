package cli

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"nfproxy/fleet"
	"nfproxy/preflight"
	"nfproxy/report"
	"nfproxy/running"
)

// hostile is a text that clears a terminal, ends a cell and begins a line.
const hostile = "\x1b[2J\tcell\n\u009b2Jforged: \u202e"

// fillHostile sets all strings of a value to hostile, makes all lists as long as n, and sets all numbers to 1.
func fillHostile(v reflect.Value, n int) {
	switch at := v.Addr().Interface().(type) {
	case *netip.Addr:
		*at = netip.MustParseAddr("fe80::1").WithZone(hostile)
		return
	case *time.Time:
		*at = time.Unix(1, 0)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(hostile)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64, reflect.Int32:
		v.SetInt(1)
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		v.SetUint(1)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillHostile(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillHostile(v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillHostile(v.Field(i), n)
			}
		}
	default:
		panic(fmt.Sprint("no hostile value of ", v.Type()))
	}
}

// hostileSurvey is the answer of a node that is full of hostile text, with lists as long as n.
func hostileSurvey[T any](n int) survey[T] {
	s := survey[T]{answers: []fleet.Answer{{Target: fleet.Target{Node: "bad"}}}, decoded: make([]T, 1)}
	fillHostile(reflect.ValueOf(&s.decoded[0]).Elem(), n)
	return s
}

// TestHostileAnswers: no text in the answer of a node controls the terminal or looks like the line of another node, and no answer makes
// the plugin panic.
func TestHostileAnswers(t *testing.T) {
	for n := range 3 {
		texts := make(map[string]string)
		status := hostileSurvey[running.Status](n)
		texts["status"], _ = statusTable(status.answers, status.decoded)
		texts["verify"], _ = verifiedText(hostileSurvey[verified](n))
		texts["check"], _ = checkedText([]string{"bad"}, [][]preflight.Line{hostileSurvey[checked](n).decoded[0].Lines})
		var b strings.Builder
		for _, byEndpoint := range []bool{false, true} {
			if err := topTable(&b, rowsOf(sumRates([][]topLine{hostileSurvey[topResult](n).decoded[0].Rows})), byEndpoint); err != nil {
				t.Fatal(err)
			}
		}
		texts["top"] = b.String()
		d := hostileSurvey[report.Description](n).decoded[0]
		fleet.AddCounters(d, d)
		texts["dump"] = written(t, func(b *bytes.Buffer) error { return report.WriteTable(b, d) })
		texts["dump -o wide"] = written(t, func(b *bytes.Buffer) error { return report.WriteWide(b, d) })
		e := hostileSurvey[report.Explanation](n).decoded[0]
		for _, outcome := range []report.Outcome{e.Outcome, report.Sent, report.Untouched, report.Answered, report.Dropped, report.Refused} {
			e.Outcome = outcome
			texts["explain "+string(outcome)] = written(t, func(b *bytes.Buffer) error { return report.WriteExplanation(b, e) })
		}
		failed := survey[verified]{answers: []fleet.Answer{{Target: fleet.Target{Node: "bad"}, Failure: hostile}}}
		texts["no answer"] = failed.silent()
		all := written(t, func(b *bytes.Buffer) error { return writeJSON(b, hostileSurvey[running.Status](n).report()) })
		if strings.ContainsFunc(strings.ReplaceAll(all, "\n", ""), unicode.IsControl) {
			t.Errorf("-o json: %q", all)
		}
		for command, text := range texts {
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) || strings.HasPrefix(strings.TrimSpace(line), "forged") {
					t.Errorf("%s: %q", command, line)
				}
			}
		}
	}
}

// written returns what a function writes.
func written(t *testing.T, write func(*bytes.Buffer) error) string {
	t.Helper()
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
