// Package fleet tests `kubectl nfproxy` on a real API server, with several nodes, each in a network namespace of its own with a daemon and
// real tables. The exec endpoint of the kubelets is that of the library that container runtimes use.
package fleet

import (
	"os"
	"testing"

	"nfproxy/cli"
	"nfproxy/integration/cluster"
)

const (
	pluginVersion = "v2.0.0" // of the plugin and of nfproxy-v2
	pluginProgram = "kubectl-nfproxy"
	otherProgram  = "nfproxy-v2"
)

func TestMain(m *testing.M) {
	program := func() { os.Exit(cli.Main(pluginVersion, os.Args, os.Stdout, os.Stderr)) }
	cluster.Main(m, map[string]func(){pluginProgram: program, otherProgram: program})
}
