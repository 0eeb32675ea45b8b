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

// Dir is a source that reads a directory of manifests: Services, EndpointSlices and Nodes as YAML or JSON, as
// `kubectl get -o yaml` prints them, in files that end in .yaml, .yml or .json and do not begin with a dot.
//
// A change is seen when a file is closed after writing, renamed, linked or removed in the directory. Where the entry is a
// symlink, a change of what it leads to is seen only if something in the directory changes with it, as in the mount of a
// ConfigMap.
type Dir struct {
	path    string
	node    render.Node
	log     *slog.Logger
	watch   *watch
	closing func()
	closed  chan struct{}

	// The rest belongs to Next.
	files   *files
	catalog *catalog
	entries map[string]entry
	// retry are the names of entries that could not be read, or were being written, when it was their turn.
	retry map[string]bool
	// unlisted says that the directory has to be listed, told that the first Update is out.
	unlisted, told bool
	opened         time.Time
}

// maxWait is how long the first Update waits for files that are being written.
const maxWait = 5 * time.Second

// entry is a manifest that is in the directory.
type entry struct {
	link bool // it is a symlink
	busy bool // it was being written when it was its turn
}

// NewDir opens the directory at path and watches it. The node is this machine; the manifest of its Node, while there is
// one, gives the zone and the addresses. log gets what is wrong with the manifests. It is an error if path is not a
// directory or cannot be watched.
func NewDir(path string, node render.Node, log *slog.Logger) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w, err := newWatch(path, log)
	if err != nil {
		return nil, err
	}
	c := newCatalog(log)
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
		closed:   closed,
		files:    newFiles(log, c),
		catalog:  c,
		entries:  map[string]entry{},
		retry:    map[string]bool{},
		unlisted: true,
		opened:   time.Now(),
	}, nil
}

// Close ends the watch and makes Next return an error that is os.ErrClosed. It may be called more than once.
func (d *Dir) Close() error {
	d.closing()
	return nil
}

// Next blocks until something has changed and returns everything that has since the last call; the first call returns
// the whole directory, even if there is nothing in it, and so does one after a change of the node. When ctx ends it
// returns ctx.Err(). What it returns is kept to compare with and must not be changed. It must not be called while another
// call is going on.
func (d *Dir) Next(ctx context.Context) (render.Update, error) {
	for {
		if err := d.ended(ctx); err != nil {
			return render.Update{}, err
		}
		changed := d.watch.take()
		d.catalog.arrived = cmp.Or(changed.since, time.Now())
		d.read(changed)
		if !d.told && !d.complete() {
			d.wait(ctx) // a first Update that lacks something would take it out of the kernel
			continue
		}
		if update, news := d.catalog.update(d.node); news || !d.told {
			d.told = true
			return update, nil
		}
		d.wait(ctx)
	}
}

// complete says whether the first Update can go out: the directory was listed, and no file of it is being written. For
// writers that never end it does not wait.
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
		again = time.After(lookAgain)
	}
	select {
	case <-ctx.Done():
	case <-d.closed:
	case <-d.watch.wake:
	case <-again:
	}
}

// read brings the files up to date with what has changed.
func (d *Dir) read(changed changes) {
	names := d.retry
	d.retry = map[string]bool{}
	if d.unlisted = d.unlisted || changed.all; d.unlisted {
		d.addAll(names)
	}
	links := false
	for name, mask := range changed.names {
		if manifestName(name) {
			names[name] = names[name] || mask != inotify.InCreate
		} else {
			links = true
		}
	}
	if links {
		d.addLinks(names)
	}
	if slices.ContainsFunc(slices.Collect(maps.Keys(names)), d.vanished) {
		d.addNew(names)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d.readFile(name, names[name])
	}
}

// addAll adds every manifest there is and was.
func (d *Dir) addAll(names map[string]bool) {
	listed, err := os.ReadDir(d.path)
	if err != nil {
		d.log.Error("listing the directory, what was read of it stays", "directory", d.path, "error", err)
		return
	}
	d.unlisted = false
	for name := range d.entries {
		names[name] = true
	}
	for _, l := range listed {
		if manifestName(l.Name()) {
			names[l.Name()] = true
		}
	}
}

// vanished says whether a manifest that was there is not there any more.
func (d *Dir) vanished(name string) bool {
	_, known := d.entries[name]
	_, err := os.Lstat(filepath.Join(d.path, name))
	return known && errors.Is(err, fs.ErrNotExist)
}

// addNew adds the manifests that have not been read yet. One that vanished may have been renamed, and the event of its
// new name still be on its way: taken apart, its objects would be gone for a moment.
func (d *Dir) addNew(names map[string]bool) {
	listed, err := os.ReadDir(d.path)
	if err != nil {
		return // gone notices
	}
	for _, l := range listed {
		if _, known := d.entries[l.Name()]; !known && manifestName(l.Name()) {
			names[l.Name()] = names[l.Name()] // false: it may have been created just now
		}
	}
}

// addLinks adds the manifests that are symlinks. They may lead through any other entry of the directory: in the mount of
// a ConfigMap all of them do, through ..data, and an update is the rename of that one symlink.
func (d *Dir) addLinks(names map[string]bool) {
	for name, e := range d.entries {
		if e.link {
			names[name] = true
		}
	}
}

func manifestName(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name))
}

// readFile reads one manifest again. It is not whole if all that is known of it is that it was created.
func (d *Dir) readFile(name string, whole bool) {
	path := filepath.Join(d.path, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		d.gone(name)
		return
	}
	now := entry{link: err == nil && info.Mode()&fs.ModeSymlink != 0}
	data, err := readWhole(path, whole || now.link)
	switch {
	case errors.Is(err, errNotRegular):
		d.log.Debug("not a file, ignored", "file", name)
		d.forget(name)
		return
	case errors.Is(err, errNotYet):
	case errors.Is(err, errBusy):
		if now.busy = true; !d.entries[name].busy {
			d.log.Info("file is being written, it is read when it is closed", "file", name)
		}
		d.retry[name] = true
	case err != nil:
		d.files.fail(name, err)
		d.retry[name] = true
	default:
		d.files.set(name, parse(data, d.node.Name))
	}
	d.entries[name] = now
}

// gone forgets a manifest that is no longer in the directory. If the directory itself is gone everything is kept.
func (d *Dir) gone(name string) {
	if _, err := os.Stat(d.path); err != nil {
		d.retry[name] = true
		return
	}
	d.forget(name)
}

func (d *Dir) forget(name string) {
	delete(d.entries, name)
	d.files.remove(name)
}
