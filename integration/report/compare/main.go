//go:build linux

// Command compare turns the records of comparisons, the files *.json in a folder, into the page and the plots of that folder, and into
// the generated lines of the main README: compare DIR README. It has no other input, so that the same records make the same bytes.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"nfproxy/integration/compare/page"
	"nfproxy/integration/compare/record"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: compare DIR README, with the directory of the records and of the page, and the main README")
		os.Exit(2)
	}
	if err := report(os.Args[1], os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

// report reads the records in one directory, writes the page and the plots to another, and replaces the generated lines of the README.
func report(from, to, readme string) error {
	all, err := record.ReadDir(from)
	if err != nil {
		return err
	}
	text, err := page.Markdown(all)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	lines, err := page.WithReadme(old, all)
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	err = errors.Join(os.WriteFile(filepath.Join(to, "README.md"), text, 0o644), os.WriteFile(readme, lines, 0o644))
	for _, f := range page.Figures(all) {
		err = errors.Join(err, drawFigure(f, filepath.Join(to, f.Name+".svg")))
	}
	return err
}
