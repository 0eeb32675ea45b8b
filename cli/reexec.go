package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"nfproxy/agent"
)

// terminations receives the signals that ask this process to end.
type terminations struct {
	first chan os.Signal // holds the first signal
	stop  func()         // ends the context of the same signals
}

// awaitTerminations returns terminations, and a context that a signal ends as well.
func awaitTerminations(ctx context.Context) (context.Context, *terminations) {
	t := &terminations{first: make(chan os.Signal, 1)}
	signal.Notify(t.first, os.Interrupt, syscall.SIGTERM)
	ctx, t.stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	return ctx, t
}

// end stops to receive signals, which end the process at once from now on. It reports whether there was one before.
func (t *terminations) end() (received bool) {
	t.stop()
	signal.Stop(t.first) // it waits until signals that have arrived are in the channel
	return len(t.first) > 0
}

// reexec replaces this process by a new start of the program, with the same arguments and environment. It returns nil if a signal
// has asked the process to end, and otherwise only on failure. The rules stay, and the new start adopts them. It keeps the guard, so
// that no daemon that waits takes over in between.
//
// A signal that arrives meanwhile is not lost. Without a recipient for it, Go's runtime ends the process in its handler, even the
// first process of a container, for which the kernel ignores the default action. The execution removes the handler, and the default
// action ends the process until the new program has its own. Only the first process of a container ignores a signal in that
// millisecond, as at every start.
func reexec(guard *agent.Guard, t *terminations) error {
	if t.end() {
		return nil
	}
	if err := guard.HandOver(); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	if err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	return nil
}
