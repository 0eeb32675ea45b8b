package watcher

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// noLeaks counts the goroutines and the open file descriptors of the process. The function that it returns fails the test
// unless their numbers fall to the same values while the test has patience. Tests that use it must not run in parallel.
func noLeaks(t *testing.T) func() {
	t.Helper()
	descriptors := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	goroutines, files := runtime.NumGoroutine(), descriptors()
	return func() {
		t.Helper()
		for deadline := time.Now().Add(patience); runtime.NumGoroutine() > goroutines || descriptors() > files; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines and %d descriptors, %d and %d before\n%s", runtime.NumGoroutine(), descriptors(),
					goroutines, files, stacks[:runtime.Stack(stacks, true)])
			}
		}
	}
}
