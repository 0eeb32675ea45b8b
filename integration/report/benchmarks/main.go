//go:build linux

// Command benchmarks runs benchmarks and writes their results to a record: benchmarks ROOT FILE NAME COMMAND..., with the directory of
// the main module, where the command runs, the file of the record, and the name of the command that repeats the run.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"nfproxy/integration/compare/record"
)

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: benchmarks ROOT FILE NAME COMMAND...")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func write(root, file, name string, command []string) error {
	r, err := record.Begin(root, name)
	if err != nil {
		return err
	}
	began := time.Now()
	var output bytes.Buffer
	run := exec.Command(command[0], command[1:]...)
	run.Dir, run.Stdout, run.Stderr = root, io.MultiWriter(&output, os.Stderr), os.Stderr
	if err := run.Run(); err != nil {
		return fmt.Errorf("%s: %w", run, err)
	}
	r.Seconds = time.Since(began).Round(time.Second).Seconds()
	if err := r.AddBenchmarks(output.String()); err != nil {
		return err
	}
	r.Sort()
	return r.Write(file)
}
