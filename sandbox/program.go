//go:build linux

package sandbox

import (
	"fmt"
	"os/exec"
	"strings"
)

// Run runs a program with arguments in the namespace, with the given standard input. The error of a program that fails contains what it
// printed.
func (n *Namespace) Run(input, name string, args ...string) error {
	return n.Do(func() error { // a child is born in its parent thread's namespace
		cmd := exec.Command(name, args...)
		cmd.Stdin = strings.NewReader(input)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
		return nil
	})
}
