package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// lifecycle is the common life of the daemon's parts. Parts are added while the daemon is assembled: resources, which are
// closed at the end, and tasks, which run at the same time.
//
// What a failure means is decided here, and is the same for every task: a task that returns before the end, with or without
// an error, ends the daemon. The daemon's supervisor starts it again, and the rules stay in the kernel meanwhile. A task that
// can recover does so itself.
type lifecycle struct {
	resources []io.Closer
	tasks     []task
}

// task is a part of the daemon that runs until its context ends.
type task struct {
	name string
	run  func(context.Context) error
}

// closing makes an io.Closer of a function.
type closing func() error

func (c closing) Close() error { return c() }

// owns adds a resource.
func (l *lifecycle) owns(r io.Closer) { l.resources = append(l.resources, r) }

// runs adds a task.
func (l *lifecycle) runs(name string, run func(context.Context) error) {
	l.tasks = append(l.tasks, task{name, run})
}

// run runs all tasks until ctx ends, which is no error, or until the first of them fails. It returns when every task has
// returned and every resource is closed.
func (l *lifecycle) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	failures := make(chan error, len(l.tasks))
	for _, t := range l.tasks {
		running.Go(func() {
			err := t.run(ctx)
			if ctx.Err() == nil {
				failures <- t.failure(err)
			}
			cancel()
		})
	}
	running.Wait()
	close(failures)
	return errors.Join(<-failures, l.close())
}

// failure names the task in the error that it ended with.
func (t task) failure(err error) error {
	if err == nil {
		return fmt.Errorf("%s ended", t.name)
	}
	return fmt.Errorf("%s: %w", t.name, err)
}

// close closes the resources, the last added first.
func (l *lifecycle) close() error {
	var errs []error
	for _, r := range slices.Backward(l.resources) {
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}
