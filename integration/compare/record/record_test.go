//go:build linux

package record_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nfproxy/integration/compare/record"
)

// TestSummarize: quantiles are samples, by nearest rank.
func TestSummarize(t *testing.T) {
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, c := range []struct {
		samples []float64
		want    record.Summary
	}{
		{nil, record.Summary{}},
		{[]float64{7}, record.Summary{Count: 1, Min: 7, P50: 7, P99: 7, Max: 7}},
		{[]float64{3, 1, 2}, record.Summary{Count: 3, Min: 1, P50: 2, P99: 3, Max: 3}},
		{hundred, record.Summary{Count: 100, Min: 1, P50: 50, P99: 99, Max: 100}},
	} {
		if got := record.Summarize(c.samples); got != c.want {
			t.Errorf("summary of %v: %+v, want %+v", c.samples, got, c.want)
		}
	}
}

// newRecord returns a record with two measurements of each kind of result.
func newRecord() record.Record {
	r := record.Record{Date: "2026-11-22 01:50 UTC", Command: "make bench-compare", Machine: record.Machine{CPU: "c", CPUs: 2, Memory: 1e9, Kernel: "6.18"}}
	slow := r.At(record.Measurement{Experiment: "start", Proxy: record.KubeProxyIptables, Services: 1000, Endpoints: 3, Unit: record.Seconds})
	slow.AddExceeded(300)
	r.At(record.Measurement{Experiment: "start", Proxy: record.Nfproxy, Services: 1000, Endpoints: 3, Unit: record.Seconds}).Add(0.123456789, 123456.7)
	r.At(record.Measurement{Experiment: "change", Proxy: record.Nfproxy, Services: 1000, Endpoints: 3, Unit: record.Seconds,
		Parameters: map[string]string{"what": "removed"}}).Add(make([]float64, record.MostSamples+1)...)
	return r
}

// TestFile: a record is read as it was written, sorted, and with one line for each measurement.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), record.ControlPlaneFile)
	r := newRecord()
	if err := r.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := record.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(r, got); d != "" {
		t.Error(d)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, `"experiment"`) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	want := []string{
		`{"experiment":"change","proxy":"nfproxy","services":1000,"endpoints":3,"parameters":{"what":"removed"},"unit":"s","count":101,"min":0,"p50":0,"p99":0,"max":0},`,
		`{"experiment":"start","proxy":"nfproxy","services":1000,"endpoints":3,"unit":"s","samples":[0.12346,123460],"count":2,"min":0.12346,"p50":0.12346,"p99":123460,"max":123460},`,
		`{"experiment":"start","proxy":"kube-proxy iptables","services":1000,"endpoints":3,"unit":"s","count":0,"min":0,"p50":0,"p99":0,"max":0,"bound":300,"exceeded":1}`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Error(d)
	}
	if !got.Measurements[2].OverBound() || got.Measurements[1].OverBound() {
		t.Error("the second measurement of start is over its bound, and the first is not")
	}
}

// TestReadDir: the records of a directory are of one machine, and the latest one keeps a measurement that several have.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	if _, err := record.ReadDir(dir); err == nil {
		t.Error("an empty directory has records")
	}
	write := func(name string, r record.Record) {
		t.Helper()
		if err := r.Write(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := newRecord(), newRecord()
	for i := range second.Measurements {
		second.Measurements[i].Experiment += " of packets"
	}
	write(record.ControlPlaneFile, first)
	write(record.DataPathFile, second)
	all, err := record.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]record.Record{first, second}, all); d != "" {
		t.Error(d)
	}
	later := newRecord()
	later.Date = first.Date + " later"
	later.Measurements = slices.Clone(first.Measurements[:1])
	write(record.DataPathFile, later)
	all, err = record.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	rest := first
	rest.Measurements = first.Measurements[1:]
	if d := cmp.Diff([]record.Record{rest, later}, all); d != "" {
		t.Errorf("a measurement in two files: %s", d)
	}
	second.Machine.CPUs++
	write(record.DataPathFile, second)
	if _, err := record.ReadDir(dir); err == nil || !strings.Contains(err.Error(), "different machines") {
		t.Errorf("records of two machines: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(`{"surprise":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := record.Read(filepath.Join(dir, "x.json")); err == nil {
		t.Error("a record has an unknown field")
	}
}
