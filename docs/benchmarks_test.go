//go:build linux

package docs

import (
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
