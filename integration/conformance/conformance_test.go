//go:build linux

package conformance

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The flags of this package's tests.
var (
	run   = flag.Bool("conformance.run", false, "start clusters; without it the tests that need one are skipped")
	focus = flag.String("conformance.focus", "", "regular expression: run only tests with such names, and write no document")
	skip  = flag.String("conformance.skip", "", "regular expression: leave out tests with such names, and write no document")
	procs = flag.Int("conformance.procs", 3, "number of tests at the same time")
	out   = flag.String("conformance.out", "dist/conformance", "directory of the reports and logs")
)

// needsCluster skips a test unless clusters may be started.
func needsCluster(t *testing.T) {
	t.Helper()
	if !*run {
		t.Skip("the test starts a whole cluster: run it by make conformance, conformance-part or conformance-up")
	}
	if os.Geteuid() != 0 {
		t.Fatal("a cluster needs root")
	}
}

func TestFocus(t *testing.T) {
	needsCluster(t)
	c := newCluster(t, shape{name: "dual", nodes: 3})
	t.Log("nodes are up")
	c.runLoadBalancers()
	c.installNfproxy()
	t.Log("nfproxy is up")
	c.installDNS()
	t.Log("DNS is up")
	abs, _ := filepath.Abs(*out)
	for _, s := range c.runTests(selection{focus: *focus, skip: *skip, procs: *procs, out: abs, timeout: time.Hour}) {
		if s.Attempts > 0 {
			t.Log(s.State, s.Took.Round(time.Second), s.name(), s.Failure.Message)
		}
	}
}
