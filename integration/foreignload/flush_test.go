package foreignload

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"nfproxy/integration/cluster"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestFlushDuringFirstLoad: another program flushes the ruleset after each of the first transactions of nfproxy, when the
// Services have their elements and the base chains are still missing, and during repairs. The tables become those of an
// undisturbed start.
func TestFlushDuringFirstLoad(t *testing.T) {
	const services, flushes = 500, 6
	n := newNode(t)
	var many strings.Builder
	for i := range services {
		many.WriteString(manifest(fmt.Sprint("many-", i), fmt.Sprintf("10.96.%d.%d:80", 4+i/200, 1+i%200), "10.244.1.2"))
	}
	n.write("many.yaml", many.String())
	last := fmt.Sprintf("10.96.%d.%d:80", 4+(services-1)/200, 1+(services-1)%200)
	n.start()
	undisturbed := n.awaitServed(last)
	n.stop()
	if out, err := cluster.CombinedOutput("nft", "flush", "ruleset"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	monitor, err := n.kernel.Monitor(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int)
	go func() { done <- n.flushAfterCommits(monitor, flushes) }()
	n.start()
	if got := <-done; got != flushes {
		t.Errorf("%d flushes", got)
	}
	n.awaitText(undisturbed)
	if err := monitor.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d flushes, %d repairs, %d connections afterwards", flushes, n.repairs(), n.wantNoFailure(n.clients()))
	n.stop()
}

// flushAfterCommits flushes the ruleset as soon as the monitor reports a commit, the given number of times. It returns how
// often it did.
func (n *loadedNode) flushAfterCommits(monitor *kernel.Monitor, times int) (flushed int) {
	for flushed < times {
		change, err := monitor.Next()
		if errors.Is(err, os.ErrClosed) {
			return flushed
		}
		if err != nil {
			n.t.Error(err)
			return flushed
		}
		if strings.Contains(change.By, "nft ") { // the flush itself
			continue
		}
		if out, err := cluster.CombinedOutput("nft", "flush", "ruleset"); err != nil {
			n.t.Errorf("%v\n%s", err, out)
		}
		flushed++
	}
	return flushed
}
