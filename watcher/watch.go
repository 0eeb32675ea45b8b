package watcher

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/inotify"
)

const (
	// dirEvents are those after which a file in a directory is whole or gone, and those that end the watch. There is no
	// IN_MODIFY: a file that is being written is of no use.
	dirEvents = inotify.InCloseWrite | inotify.InMovedTo | inotify.InMovedFrom | inotify.InDelete | inotify.InCreate |
		inotify.InDeleteSelf | inotify.InMoveSelf | inotify.InOnlydir
	endEvents = inotify.InDeleteSelf | inotify.InMoveSelf | inotify.InUnmount

	// anchor is a directory that outlives every other and holds no manifests.
	anchor = "/proc"

	lookAgain = time.Second
)

// changes are what events have named since they were taken last.
type changes struct {
	// names are entries of the directory, with all events that came for each.
	names map[string]uint32
	// all says that names is not complete.
	all bool
	// since is when the first of the events came, zero if there is nothing.
	since time.Time
}

// begin notes the time if there was nothing yet.
func (c *changes) begin() {
	if c.since.IsZero() {
		c.since = time.Now()
	}
}

// watch collects the events of one directory, whether anybody takes them or not.
type watch struct {
	path string
	log  *slog.Logger
	// wake holds a token when there is something to take.
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pending changes

	// The rest belongs to the goroutine of run.
	events *inotify.Watcher
	dir    os.FileInfo // the directory that is watched, nil while there is none
	// limit is the length of the kernel's queue of events, seen how many came since everything was marked as changed.
	limit, seen int
}

// newWatch watches a directory and marks all of it as changed.
func newWatch(path string, log *slog.Logger) (*watch, error) {
	w := &watch{
		path:  path,
		log:   log,
		wake:  make(chan struct{}, 1),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
		limit: queueLength(),
	}
	var err error
	if w.events, err = inotify.NewWatcher(); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	// Close of the library ends its goroutine by the event that the end of a watch makes. If the directory went away
	// there would be none and the goroutine would stay, so there is always a second watch, on something silent. Should
	// not even that be possible, the library leaves no way to end its goroutine.
	if err = w.events.AddWatch(anchor, inotify.InDeleteSelf|inotify.InOnlydir); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if err = w.begin(); err != nil {
		w.end()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	go w.run()
	return w, nil
}

// queueLength is how many events the kernel holds for us before it drops some.
func queueLength() int {
	const usual = 16384
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		return usual
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 1 {
		return usual
	}
	return n
}

// close ends the watch and waits for its goroutines. It may be called once.
func (w *watch) close() {
	close(w.stop)
	<-w.done
}

// take returns what changed since it was called last.
func (w *watch) take() changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.pending
	w.pending = changes{}
	return taken
}

func (w *watch) run() {
	defer close(w.done)
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case event := <-w.events.Event:
			w.note(event)
		case err := <-w.events.Error:
			w.log.Error("reading inotify events", "directory", w.path, "error", err)
			w.markAll()
		case <-tick.C:
			w.look()
		case <-w.stop:
			w.end()
			return
		}
	}
}

// note marks what an event tells.
func (w *watch) note(event *inotify.Event) {
	w.count()
	name, inside := strings.CutPrefix(event.Name, w.path+"/")
	switch {
	case w.dir == nil:
		// Events of a directory that was moved away may still be on their way.
	case inside:
		w.mark(name, event.Mask)
	case event.Name == w.path && event.Mask&endEvents != 0:
		w.lose("it was removed or moved away")
	}
}

// count guards against lost events: the library does not pass on the kernel's IN_Q_OVERFLOW. Before the kernel drops an
// event it has a full queue for us, which comes whole after the drop; so whatever was dropped, everything is marked once
// more after it if everything is marked once per queue length. Half of it, because the kernel counts its own event in.
func (w *watch) count() {
	if w.seen++; w.seen >= w.limit/2 {
		w.markAll()
	}
}

func (w *watch) mark(name string, mask uint32) {
	w.mu.Lock()
	if w.pending.names == nil {
		w.pending.names = map[string]uint32{}
	}
	w.pending.names[name] |= mask
	w.pending.begin()
	w.mu.Unlock()
	w.poke()
}

func (w *watch) markAll() {
	w.seen = 0
	w.mu.Lock()
	w.pending.all = true
	w.pending.begin()
	w.mu.Unlock()
	w.poke()
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// look makes sure that the directory we watch is the one at path. A removed directory that some process still works in
// gives no event, and neither does a symlink or a mount on the way to it.
func (w *watch) look() {
	if w.dir != nil {
		if now, err := os.Stat(w.path); err == nil && os.SameFile(w.dir, now) {
			return
		}
		w.lose("another one or none is in its place")
	}
	if err := w.begin(); err == nil {
		w.log.Info("directory is watched again", "directory", w.path)
	}
}

// begin watches the directory at path and marks all of it, because of the time before.
func (w *watch) begin() error {
	dir, err := os.Stat(w.path)
	if err != nil {
		return err
	}
	if err := w.events.AddWatch(w.path, dirEvents); err != nil {
		return err
	}
	w.dir = dir
	w.markAll()
	return nil
}

// lose ends the watch of the directory. The library has to be told even if the kernel ended it: it would take the next
// watch of the same path for this one.
func (w *watch) lose(why string) {
	w.log.Error("directory is gone, what was read of it stays", "directory", w.path, "reason", why)
	w.dir = nil
	if err := w.events.RemoveWatch(w.path); err != nil {
		w.log.Error("ending the watch of a directory", "directory", w.path, "error", err)
	}
}

// end closes inotify and reads until the library's goroutine is gone. The anchor goes last, by Close, because its end is
// the event that the goroutine is to see.
func (w *watch) end() {
	if w.dir != nil {
		_ = w.events.RemoveWatch(w.path) // it all ends in any case
	}
	_ = w.events.Close() // never an error
	events, errs := w.events.Event, w.events.Error
	for events != nil || errs != nil {
		select {
		case _, ok := <-events:
			if !ok {
				events = nil
			}
		case _, ok := <-errs:
			if !ok {
				errs = nil
			}
		}
	}
}
