package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"nfproxy/integration/sandbox"
)

// TestMain runs the tests in a network namespace of their own, whoever starts them and how.
func TestMain(m *testing.M) {
	if sandbox.Inside() {
		os.Exit(m.Run())
	}
	err := sandbox.Run(context.Background(), nil, os.Args[1:]...)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
