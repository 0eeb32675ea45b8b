package cluster

import (
	"errors"
	"maps"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"nfproxy/cli"
	"nfproxy/sandbox"
)

// Main runs the tests of a package two directories below the module's root, in a network namespace of their own with a loopback
// link that is up, and with the module's root as the working directory. The test binary also serves as the program nfproxy, which
// Command runs, and as the programs in more, by name.
func Main(m *testing.M, more map[string]func()) {
	programs := map[string]func(){"nfproxy": nfproxy}
	maps.Copy(programs, more)
	os.Exit(sandbox.Main(func() int {
		testscript.Main(inRoot{m}, programs)
		return 0
	}))
}

// inRoot runs tests in the module's root.
type inRoot struct{ *testing.M }

func (m inRoot) Run() int {
	if err := errors.Join(os.Chdir("../.."), raiseLoopback()); err != nil {
		panic(err)
	}
	return m.M.Run()
}

// raiseLoopback sets the loopback link of the tests' namespace up. The programs find it so, and may lack the rights to do it.
func raiseLoopback() error {
	here, err := sandbox.Current()
	if err != nil {
		return err
	}
	return errors.Join(here.RaiseLoopback(), here.Close())
}

// nfproxy is the main function of nfproxy, with the version "unknown".
func nfproxy() {
	os.Exit(cli.Main("unknown", os.Args, os.Stdout, os.Stderr))
}
