package clock

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m, nil) }

// parameter is on the kernel's command line of the virtual machines (integration/kernels/machine.go).
const parameter = "nfproxy.settable-clock"

// clock sets the wall clock of a virtual machine.
type clock struct {
	t     *testing.T
	ahead time.Duration // of the time without jumps
}

// newClock skips the test unless it runs in a virtual machine of integration/kernels. At the end of the test the clock is right again.
func newClock(t *testing.T) *clock {
	t.Helper()
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(line)), parameter) {
		t.Skip("sets the clock of the machine: make test-kernels runs it in virtual machines")
	}
	c := &clock{t: t}
	t.Cleanup(func() { c.jump(-c.ahead) })
	return c
}

// jump sets the clock forward, or back if by is negative.
func (c *clock) jump(by time.Duration) {
	c.t.Helper()
	before := time.Now()
	to := unix.NsecToTimespec(before.Add(by).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &to); err != nil {
		c.t.Fatalf("set the clock: %v", err)
	}
	c.ahead += by
	// Without their monotonic readings, the times differ by the jump.
	after := time.Now()
	if jumped, passed := after.Round(0).Sub(before.Round(0)), after.Sub(before); jumped-passed < by-time.Second || jumped-passed > by+time.Second {
		c.t.Fatalf("the clock jumped by %v, want %v", jumped-passed, by)
	}
}
