package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCommittedPage: docs/soak has the page and the plots that its samples result in, and nothing was edited by hand.
func TestCommittedPage(t *testing.T) {
	const committed = "../../../docs/soak"
	made := t.TempDir()
	if err := report(committed, made, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{committed, made} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if least := len(figures()) + 3; len(files) < least {
			t.Errorf("%s has %d files, want at least %d", dir, len(files), least)
		}
		for _, f := range files {
			want, _ := os.ReadFile(filepath.Join(made, f.Name()))
			got, _ := os.ReadFile(filepath.Join(committed, f.Name()))
			if string(got) != string(want) {
				t.Errorf("%s differs from what the samples result in: run the command again", f.Name())
			}
		}
	}
}
