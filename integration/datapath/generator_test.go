package datapath

import (
	"fmt"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"nfproxy/integration/compare/record"
)

// TestGenerator: the load generator makes the connections that ab makes, and no others: of both, the server answers as many as were
// asked for, each of them is one connection to connection tracking, and the generator's time is that of the clock. How fast both are is
// logged and decides nothing; see docs/testing.md.
func TestGenerator(t *testing.T) {
	const n = 500
	node := newNode(t, record.None)
	to := netip.AddrPortFrom(serverAddr, serverPort)

	start := time.Now()
	ours := node.connect(fromPod, order{Targets: []netip.AddrPort{to}, Connections: n})
	elapsed := time.Since(start).Seconds()
	if ours.Error != "" || ours.Made != n {
		t.Fatalf("%d connections of %d: %s", ours.Made, n, ours.Error)
	}
	if ours.Seconds <= 0 || ours.Seconds > elapsed || ours.CPU <= 0 || ours.CPU > ours.Seconds {
		t.Errorf("%d connections took %f s and %f s of processor time by the generator, %f s by the clock", n, ours.Seconds, ours.CPU, elapsed)
	}
	if ours.P50 <= 0 || ours.P50 > ours.P99 || float64(n/2)*ours.P50.Seconds() > ours.Seconds {
		t.Errorf("a median of %v, a 99th percentile of %v, in %f s for %d connections", ours.P50, ours.P99, ours.Seconds, n)
	}
	if flows := node.forget(); flows != n {
		t.Errorf("the node tracked %d connections of the generator, want %d", flows, n)
	}

	ab := exec.Command("taskset", "-c", clientCPU, "ab", "-q", "-r", "-n", strconv.Itoa(n), "-c", "1", fmt.Sprintf("http://%s/", to))
	var text string
	check(t, node.places[fromPod].Do(func() error {
		out, err := ab.CombinedOutput()
		text = string(out)
		return err
	}))
	if complete, failed := abFigure(t, text, "Complete requests"), abFigure(t, text, "Failed requests"); complete != n || failed != 0 {
		t.Errorf("ab made %f requests, want %d; %f failed", complete, n, failed)
	}
	if flows := node.forget(); flows != n {
		t.Errorf("the node tracked %d connections of ab, want %d", flows, n)
	}
	abCPU := (ab.ProcessState.UserTime() + ab.ProcessState.SystemTime()).Seconds()
	t.Logf("connections per second: %.0f by the generator, %.0f by ab; processor time of one: %.1f us by the generator, %.1f us by ab",
		float64(n)/ours.Seconds, abFigure(t, text, "Requests per second"), ours.CPU/n*1e6, abCPU/n*1e6)

	udp := node.connect(fromPod, order{UDP: true, Targets: []netip.AddrPort{to}, Connections: n})
	if flows := node.forget(); udp.Error != "" || udp.Made != n || flows != n {
		t.Errorf("UDP: %d connections, %d tracked, want %d: %s", udp.Made, flows, n, udp.Error)
	}
}

// TestGeneratorReportsFailures: a connection that is refused ends an order.
func TestGeneratorReportsFailures(t *testing.T) {
	node := newNode(t, record.None)
	closed := netip.AddrPortFrom(serverAddr, serverPort+1)
	for _, udp := range []bool{false, true} {
		r := node.connect(fromPod, order{UDP: udp, Targets: []netip.AddrPort{netip.AddrPortFrom(serverAddr, serverPort), closed}, Connections: 10})
		if r.Made != 1 || r.Error == "" {
			t.Errorf("udp %t: %d connections were made and the error is %q; the second one was refused", udp, r.Made, r.Error)
		}
	}
}

// abFigure returns a number in the output of ab.
func abFigure(t *testing.T, text, name string) float64 {
	t.Helper()
	found := regexp.MustCompile(`(?m)^` + name + `: +([0-9.]+)`).FindStringSubmatch(text)
	if found == nil {
		t.Fatalf("ab reports no %q:\n%s", name, text)
	}
	number, err := strconv.ParseFloat(found[1], 64)
	check(t, err)
	return number
}
