//go:build linux

package docs

import (
	"fmt"
	"strings"
	"testing"

	"nfproxy/integration/compare/page"
	"nfproxy/integration/compare/record"
)

// TestBenchmarks: docs/benchmarks/README.md and the generated lines of the main README are what the records in docs/benchmarks result in.
// The plots are tested where they are drawn.
func TestBenchmarks(t *testing.T) {
	all, err := record.ReadDir("benchmarks")
	if err != nil {
		t.Fatal(err)
	}
	want, err := page.Markdown(all)
	if err != nil {
		t.Fatal(err)
	}
	const again = "go run -C integration/report ./compare $PWD/docs/benchmarks $PWD/README.md"
	if got := readDocument(t, "benchmarks/README.md"); got != string(want) {
		t.Errorf("docs/benchmarks/README.md differs from what its records result in: run `%s`", again)
	}
	readme := readDocument(t, "../README.md")
	want, err = page.WithReadme([]byte(readme), all)
	if err != nil {
		t.Fatal(err)
	}
	if readme != string(want) {
		t.Errorf("README.md differs from what the records in docs/benchmarks result in: run `%s`", again)
	}
}

// TestReadmeNumbers: the figures of `make bench-commits` in the main README are the medians in docs/benchmarks/README.md.
func TestReadmeNumbers(t *testing.T) {
	readme, results := readDocument(t, "../README.md"), readDocument(t, "benchmarks/README.md")
	columns := []string{"first load", "restart", "an endpoint replaced", "an endpoint more or less", "an endpoint more or less, across a power of two"}
	_, table, _ := strings.Cut(readme, "| Services | load | restart |")
	for _, services := range []string{"1,000", "10,000", "100,000"} {
		_, row, found := strings.Cut(table, "\n| "+services+" | ")
		cells := strings.Split(row, " | ")
		if !found || len(cells) < len(columns) {
			t.Errorf("the README has no figures at %s Services", services)
			continue
		}
		for i, column := range columns {
			if want := fmt.Sprintf("\n| %s x 3 | %s | %s;", services, column, cells[i]); !strings.Contains(results, want) {
				t.Errorf("docs/benchmarks/README.md does not say %q, as the main README does", strings.TrimSpace(want))
			}
		}
	}
}
