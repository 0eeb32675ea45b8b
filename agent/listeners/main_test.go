package listeners

import (
	"os"
	"testing"

	"nfproxy/sandbox"
)

// TestMain runs the tests in a network namespace of their own, with the loopback interface up.
func TestMain(m *testing.M) {
	os.Exit(sandbox.Main(func() int {
		here, err := sandbox.Current()
		if err == nil {
			err = here.RaiseLoopback()
		}
		if err != nil {
			panic(err)
		}
		return m.Run()
	}))
}
