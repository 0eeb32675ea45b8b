// Command soak turns the results of a soak, samples.csv and run.json, into the page and the plots of docs/soak: soak FROM
// TO [NOTE]. It copies both files to TO, and NOTE, a sentence about the machine, as note.txt. Without NOTE it uses the note in
// FROM, if there is one. It has no other input, so that the same results make the same bytes.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) < 3 || len(os.Args) > 4 {
		fmt.Fprintln(os.Stderr, "usage: soak FROM TO [NOTE], with the directories of the results and of the page, and a sentence about the machine")
		os.Exit(2)
	}
	if err := report(os.Args[1], os.Args[2], strings.Join(os.Args[3:], "")); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// inputs are the names of the files that the page is made of.
const (
	samplesFile = "samples.csv"
	runFile     = "run.json"
	noteFile    = "note.txt"
)

// report reads the results in one directory and writes them, the page and the plots to another.
func report(from, to, note string) error {
	samples, err := readSamples(filepath.Join(from, samplesFile))
	if err != nil {
		return err
	}
	run, err := readRun(from)
	if err != nil {
		return err
	}
	if note != "" {
		run.Note = note
	}
	page, err := pageOf(run, samples)
	if err != nil {
		return err
	}
	if err := copyInputs(from, to, run.Note); err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(to, "README.md"), page, 0o644)
	for _, f := range figures() {
		err = errors.Join(err, f.draw(samples, filepath.Join(to, f.name+".svg")))
	}
	return err
}

// copyInputs copies the results, and writes the note or, if there is none, removes an old one.
func copyInputs(from, to, note string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, name := range []string{samplesFile, runFile} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), text, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if note == "" {
		return os.RemoveAll(filepath.Join(to, noteFile))
	}
	return os.WriteFile(filepath.Join(to, noteFile), []byte(note+"\n"), 0o644)
}
