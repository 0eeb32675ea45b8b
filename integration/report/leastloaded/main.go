package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: leastloaded DIR, with the directory of the design documents")
		os.Exit(2)
	}
	if err := report(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "leastloaded:", err)
		os.Exit(1)
	}
}

// report runs all experiments and writes their results.
func report(dir string) error {
	document := filepath.Join(dir, "0017-least-loaded.md")
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	page := filepath.Join(dir, "leastloaded")
	if err := os.MkdirAll(page, 0o755); err != nil {
		return err
	}
	var all results
	for _, e := range experiments() {
		all = append(all, run(e)...)
	}
	text, err := withSummary(old, all)
	if err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	err = errors.Join(os.WriteFile(document, text, 0o644), os.WriteFile(filepath.Join(page, "README.md"), pageOf(all), 0o644))
	for _, f := range figures() {
		err = errors.Join(err, f.draw(all, filepath.Join(page, f.name+".svg")))
	}
	return err
}
