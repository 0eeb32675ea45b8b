//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCommittedPlots: docs/benchmarks has the plots that its records result in, and no others.
func TestCommittedPlots(t *testing.T) {
	const committed = "../../../docs/benchmarks"
	made, readme := t.TempDir(), filepath.Join(t.TempDir(), "README.md")
	text, err := os.ReadFile("../../../README.md")
	if err == nil {
		err = os.WriteFile(readme, text, 0o600)
	}
	if err == nil {
		err = report(committed, made, readme)
	}
	if err != nil {
		t.Fatal(err)
	}
	plots := 0
	for _, dir := range []string{committed, made} {
		files, err := filepath.Glob(filepath.Join(dir, "*.svg"))
		if err != nil {
			t.Fatal(err)
		}
		plots += len(files)
		for _, file := range files {
			want, _ := os.ReadFile(filepath.Join(made, filepath.Base(file)))
			got, _ := os.ReadFile(filepath.Join(committed, filepath.Base(file)))
			if string(got) != string(want) {
				t.Errorf("%s differs from what the records result in: run the command again", filepath.Base(file))
			}
		}
	}
	if plots < 8 {
		t.Errorf("there are %d plots in two folders, want at least 8", plots)
	}
}
