package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

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
// No signal is lost. One that another thread takes before the execution ends the process there and then: Go's runtime does that
// in its handler, even in the first process of a container, for which the kernel ignores the default action. After that only this
// thread is left, and the signal stays pending, because the thread blocks it. The new program inherits the pending signal and the
// mask, and Go's runtime unblocks the signals for which a program asks.
func reexec(guard *agent.Guard, t *terminations) error {
	runtime.LockOSThread()
	mask := unix.Sigset_t{}
	mask.Val[0] = 1<<(unix.SIGINT-1) | 1<<(unix.SIGTERM-1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &mask, nil); err != nil {
		return fmt.Errorf("restart: block signals: %w", err)
	}
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
