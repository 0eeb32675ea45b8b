//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"nfproxy/sandbox"
)

func main() { os.Exit(sandbox.Main(inSandbox)) }

// inSandbox is the main function in a network namespace of its own. It returns the exit status.
func inSandbox() int {
	o, err := parseOptions(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o, os.Stdout)
	for _, sentence := range r.Wrong {
		fmt.Fprintln(os.Stderr, "soak:", sentence)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
	}
	if err != nil || len(r.Wrong) > 0 {
		return 1
	}
	return 0
}
