package watcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/inotify"

	"nfproxy/render"
)

// Dir is a source that reads a directory of manifests: Services, EndpointSlices and Nodes as YAML or JSON, in the format of
// `kubectl get -o yaml`. Manifests are the files whose names end in .yaml, .yml or .json and do not begin with a dot.
//
// Dir notices a change when a file is closed after writing, or when a name is renamed, linked or removed in the directory.
// If a name is a symlink, a change of its target is noticed only when something in the directory changes too, as it does in
// a ConfigMap volume.
type Dir struct {
	path    string
	node    render.Node
	log     *slog.Logger
	watch   *dirWatch
	closing func()
	closed  chan struct{}

	// The remaining fields are used only by Next.
	manifests *manifestSet
	catalog   *catalog
	entries   map[string]entry
	// retry are the names whose manifests could not be read, or were open for writing, at the last attempt.
	retry map[string]bool
	// unlisted is true if the directory has to be listed. started is false until the first Update.
	unlisted, started bool
	opened            time.Time
}

// maxWait limits how long the first Update waits for files that are open for writing.
const maxWait = 5 * time.Second

// entry describes a manifest in the directory.
type entry struct {
	link bool // it is a symlink
	busy bool // it was open for writing at the last attempt to read it
}

// NewDir opens the directory at path and watches it. node describes this machine: the manifest of its Node, while there is
// one, adds the zone and the addresses. Problems of the manifests are logged. NewDir returns an error if path is not a
// directory or cannot be watched.
func NewDir(path string, node render.Node, log *slog.Logger) (*Dir, error) {
	return newDir(path, node, nodePortAddresses{}, log)
}

func newDir(path string, node render.Node, nodePorts nodePortAddresses, log *slog.Logger) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w, err := newDirWatch(path, log)
	if err != nil {
		return nil, err
	}
	c := newCatalog(log)
	c.nodePorts = nodePorts
	closed := make(chan struct{})
	return &Dir{
		path:  path,
		node:  node,
		log:   log,
		watch: w,
		closing: sync.OnceFunc(func() {
			close(closed)
			w.close()
		}),
		closed:    closed,
		manifests: newManifestSet(log, c),
		catalog:   c,
		entries:   map[string]entry{},
		retry:     map[string]bool{},
		unlisted:  true,
		opened:    time.Now(),
	}, nil
}

// Close ends the watch. A pending or later Next returns an error that wraps os.ErrClosed. Close may be called more than
// once.
func (d *Dir) Close() error {
	d.closing()
	return nil
}

// Next blocks until something has changed and returns everything that has changed since the previous call. The first call
// returns the content of the whole directory, even if it is empty; a call after a change of the node returns all Services.
// When ctx ends, Next returns ctx.Err(). The catalog keeps what Next returns, so callers must not modify it. Calls must not
// overlap.
func (d *Dir) Next(ctx context.Context) (render.Update, error) {
	for {
		if err := d.ended(ctx); err != nil {
			return render.Update{}, err
		}
		changed := d.watch.take()
		d.catalog.arrived = cmp.Or(changed.since, time.Now())
		d.read(changed)
		if !d.started && !d.complete() {
			d.wait(ctx) // an incomplete first Update would remove Services from the kernel
			continue
		}
		if update, changed := d.catalog.update(d.node); changed || !d.started {
			d.started = true
			return update, nil
		}
		d.wait(ctx)
	}
}

// complete reports whether the first Update can be returned: the directory has been listed and no manifest is open for
// writing. It ignores writers that keep a manifest open for longer than maxWait.
func (d *Dir) complete() bool {
	if d.unlisted {
		return false
	}
	for _, e := range d.entries {
		if e.busy && time.Since(d.opened) < maxWait {
			return false
		}
	}
	return true
}

func (d *Dir) ended(ctx context.Context) error {
	select {
	case <-d.closed:
		return fmt.Errorf("read %s: %w", d.path, os.ErrClosed)
	default:
		return ctx.Err()
	}
}

// wait returns when there may be something to do.
func (d *Dir) wait(ctx context.Context) {
	var again <-chan time.Time
	if len(d.retry) > 0 || d.unlisted {
		again = time.After(retryInterval)
	}
	select {
	case <-ctx.Done():
	case <-d.closed:
	case <-d.watch.wake:
	case <-d.catalog.nodePorts.changed():
	case <-again:
	}
}

// read reads the manifests that may have changed.
func (d *Dir) read(changed changes) {
	// The value of a name is true if its manifest is known to be complete, see readFile.
	names := d.retry
	d.retry = map[string]bool{}
	if d.unlisted = d.unlisted || changed.all; d.unlisted {
		d.addAll(names)
	}
	otherEntries := false
	for name, mask := range changed.names {
		if isManifest(name) {
			names[name] = names[name] || mask != inotify.InCreate
		} else {
			otherEntries = true
		}
	}
	if otherEntries {
		d.addLinks(names)
	}
	if slices.ContainsFunc(slices.Collect(maps.Keys(names)), d.vanished) {
		d.addNew(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d.readFile(name, names[name])
	}
}

// addAll adds all manifests in the directory and all that have been read before.
func (d *Dir) addAll(names map[string]bool) {
	listed, err := os.ReadDir(d.path)
	if err != nil {
		d.log.Error("listing the directory failed; its last known content stays in use", "directory", d.path, "error", err)
		return
	}
	d.unlisted = false
	for name := range d.entries {
		names[name] = true
	}
	for _, l := range listed {
		if isManifest(l.Name()) {
			names[l.Name()] = true
		}
	}
}

// vanished reports whether a manifest has been read before and is no longer in the directory.
func (d *Dir) vanished(name string) bool {
	_, known := d.entries[name]
	_, err := os.Lstat(filepath.Join(d.path, name))
	return known && errors.Is(err, fs.ErrNotExist)
}

// addNew adds the manifests that have not been read before. A manifest that vanished may have been renamed while the event
// of its new name is still pending. Without its new name its objects would be removed and added again.
func (d *Dir) addNew(names map[string]bool) {
	listed, err := os.ReadDir(d.path)
	if err != nil {
		return // removeFile handles a missing directory
	}
	for _, l := range listed {
		if _, known := d.entries[l.Name()]; !known && isManifest(l.Name()) {
			names[l.Name()] = names[l.Name()] // false unless set before: the file may have just been created
		}
	}
}

// addLinks adds the manifests that are symlinks. They may lead through any other entry of the directory. In a ConfigMap
// volume all of them lead through ..data, and an update renames only that symlink.
func (d *Dir) addLinks(names map[string]bool) {
	for name, e := range d.entries {
		if e.link {
			names[name] = true
		}
	}
}

func isManifest(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// readFile reads a manifest again. complete is false if the only known event is the creation of the file.
func (d *Dir) readFile(name string, complete bool) {
	path := filepath.Join(d.path, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		d.removeFile(name)
		return
	}
	now := entry{link: err == nil && info.Mode()&fs.ModeSymlink != 0}
	data, err := readComplete(path, complete || now.link)
	switch {
	case errors.Is(err, errNotRegular):
		d.log.Debug("not a regular file, ignored", "file", name)
		d.forget(name)
		return
	case errors.Is(err, errJustCreated):
	case errors.Is(err, errBusy):
		if now.busy = true; !d.entries[name].busy {
			d.log.Info("file is open for writing, reading it when it is closed", "file", name)
		}
		d.retry[name] = true
	case err != nil:
		d.manifests.fail(name, err)
		d.retry[name] = true
	default:
		d.manifests.set(name, parse(data, d.node))
	}
	d.entries[name] = now
}

// removeFile forgets a manifest that is no longer in the directory. If the directory itself is missing, its last known
// content stays in use.
func (d *Dir) removeFile(name string) {
	if _, err := os.Stat(d.path); err != nil {
		d.retry[name] = true
		return
	}
	d.forget(name)
}

func (d *Dir) forget(name string) {
	delete(d.entries, name)
	d.manifests.remove(name)
}
