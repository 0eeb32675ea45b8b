package apichaos

import (
	"flag"
	"testing"

	"nfproxy/integration/cluster"
)

// rounds is how often each fault is tried. More than one gives the figures in docs/testing.md, with figures for a file.
var (
	rounds  = flag.Int("apichaos.rounds", 1, "try each fault `N` times")
	figures = flag.String("apichaos.figures", "", "append the figures to `FILE`")
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "64"); err != nil { // all faults, whatever the number of processors
		panic(err)
	}
	cluster.Main(m, nil)
}
