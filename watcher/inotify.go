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
	// dirEvents are the events after which a file in a directory is complete or gone, and the events that end the watch.
	// IN_MODIFY is not among them: files are not read while they are written.
	dirEvents = inotify.InCloseWrite | inotify.InMovedTo | inotify.InMovedFrom | inotify.InDelete | inotify.InCreate |
		inotify.InDeleteSelf | inotify.InMoveSelf | inotify.InOnlydir
	endEvents = inotify.InDeleteSelf | inotify.InMoveSelf | inotify.InUnmount

	// anchor is a directory that always exists and never contains manifests.
	anchor = "/proc"

	// retryInterval is the time between attempts after a failure.
	retryInterval = time.Second
)

// changes are the entries of a directory that events have named since the last call of take.
type changes struct {
	// names maps entries to the union of their events.
	names map[string]uint32
	// all is true if any entry may have changed.
	all bool
	// since is the time of the first event, zero if there is none.
	since time.Time
}

// stamp sets the time of the first event.
func (c *changes) stamp() {
	if c.since.IsZero() {
		c.since = time.Now()
	}
}

// dirWatch collects the inotify events of a directory until take is called. It reads them from the kernel without waiting
// for take.
type dirWatch struct {
	path string
	log  *slog.Logger
	// wake holds a token when take may return something.
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pending changes

	// The remaining fields are used only by the goroutine of run.
	events *inotify.Watcher
	dir    os.FileInfo // the watched directory, nil while there is none
	// limit is the length of the kernel's event queue. seen counts the events since markAll.
	limit, seen int
}

// newDirWatch watches the directory at path and marks all entries as changed.
func newDirWatch(path string, log *slog.Logger) (*dirWatch, error) {
	w := &dirWatch{
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
	// The library's Close ends its goroutine through the event that the removal of a watch causes. If the directory is
	// removed first, there is no such event and the goroutine leaks. The second watch, on a directory without events,
	// prevents that. If it fails, the goroutine leaks: the library has no other way to end it.
	if err = w.events.AddWatch(anchor, inotify.InDeleteSelf|inotify.InOnlydir); err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if err = w.addDir(); err != nil {
		w.end()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	go w.run()
	return w, nil
}

// queueLength returns how many events the kernel queues for an inotify instance before it drops events.
func queueLength() int {
	const kernelDefault = 16384
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		return kernelDefault
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 1 {
		return kernelDefault
	}
	return n
}

// close ends the watch and waits for its goroutines. It must be called only once.
func (w *dirWatch) close() {
	close(w.stop)
	<-w.done
}

// take returns the changes since the previous call.
func (w *dirWatch) take() changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.pending
	w.pending = changes{}
	return taken
}

func (w *dirWatch) run() {
	defer close(w.done)
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case event := <-w.events.Event:
			w.handle(event)
		case err := <-w.events.Error:
			w.log.Error("reading inotify events failed", "directory", w.path, "error", err)
			w.markAll()
		case <-tick.C:
			w.checkDir()
		case <-w.stop:
			w.end()
			return
		}
	}
}

// handle marks the entry that an event names.
func (w *dirWatch) handle(event *inotify.Event) {
	w.count()
	name, inside := strings.CutPrefix(event.Name, w.path+"/")
	switch {
	case w.dir == nil:
		// Events of a directory that was moved away may still be in the queue.
	case inside:
		w.mark(name, event.Mask)
	case event.Name == w.path && event.Mask&endEvents != 0:
		w.loseDir("removed or moved away")
	}
}

// count guards against lost events, because the library does not pass on the kernel's IN_Q_OVERFLOW. The kernel drops an
// event only when the queue is full, and all events of the full queue arrive after the drop. So if markAll is called at
// least once per queue length of events, it is called after every drop. Half the length is used because the kernel's own
// overflow event takes a place in the queue.
func (w *dirWatch) count() {
	if w.seen++; w.seen >= w.limit/2 {
		w.markAll()
	}
}

func (w *dirWatch) mark(name string, mask uint32) {
	w.mu.Lock()
	if w.pending.names == nil {
		w.pending.names = map[string]uint32{}
	}
	w.pending.names[name] |= mask
	w.pending.stamp()
	w.mu.Unlock()
	poke(w.wake)
}

func (w *dirWatch) markAll() {
	w.seen = 0
	w.mu.Lock()
	w.pending.all = true
	w.pending.stamp()
	w.mu.Unlock()
	poke(w.wake)
}

// checkDir ensures that the watched directory is the one at path. There is no event when a directory is removed that a
// process still has open, nor when a symlink or a mount in the path changes.
func (w *dirWatch) checkDir() {
	if w.dir != nil {
		if now, err := os.Stat(w.path); err == nil && os.SameFile(w.dir, now) {
			return
		}
		w.loseDir("missing or replaced by another one")
	}
	if err := w.addDir(); err == nil {
		w.log.Info("directory is watched again", "directory", w.path)
	}
}

// addDir watches the directory at path and marks all entries, because events before the watch are unknown.
func (w *dirWatch) addDir() error {
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

// loseDir ends the watch of the directory. RemoveWatch is needed even if the kernel has ended the watch: otherwise the
// library would confuse the next watch of the same path with this one.
func (w *dirWatch) loseDir(reason string) {
	w.log.Error("directory is gone; its last known content stays in use", "directory", w.path, "reason", reason)
	w.dir = nil
	if err := w.events.RemoveWatch(w.path); err != nil {
		w.log.Error("ending the watch of a directory failed", "directory", w.path, "error", err)
	}
}

// end closes the inotify instance and reads its channels until the library's goroutine has ended. Close removes the watch
// of the anchor last, because its removal causes the event that ends the goroutine.
func (w *dirWatch) end() {
	if w.dir != nil {
		_ = w.events.RemoveWatch(w.path) // the instance ends in any case
	}
	_ = w.events.Close() // always nil
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
