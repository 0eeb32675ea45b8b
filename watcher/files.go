package watcher

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"nfproxy/render"
)

// files knows which file gives which object and puts the one that counts into the catalog: of an object that is in
// several files the first file in name order gives it.
type files struct {
	log     *slog.Logger
	catalog *catalog
	known   map[string]manifest
	// holders are the names of the files that give an object, sorted. Nearly always it is one.
	holders map[objectKey][]string
}

func newFiles(log *slog.Logger, c *catalog) *files {
	return &files{log: log, catalog: c, known: map[string]manifest{}, holders: map[objectKey][]string{}}
}

// set replaces what a file gives. Where one of its documents is bad, the objects it gave before and gives no longer are
// kept: what is missing may be what is bad.
func (f *files) set(name string, now manifest) {
	old := f.known[name]
	f.reportFindings(name, old.findings, now.findings)
	if now.bad() {
		for key, o := range old.objects {
			if _, ok := now.objects[key]; !ok {
				now.objects[key] = o
			}
		}
	}
	f.known[name] = now
	for key := range old.objects {
		if _, ok := now.objects[key]; !ok {
			f.release(name, key)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(now.objects), compareKeys) {
		f.hold(name, key)
	}
}

// fail notes that a file cannot be read. What it gave stays.
func (f *files) fail(name string, err error) {
	now := manifest{
		objects:  f.known[name].objects,
		findings: []finding{{Problem: Problem{Detail: err.Error()}, bad: true}},
	}
	f.reportFindings(name, f.known[name].findings, now.findings)
	f.known[name] = now
}

// remove takes a file's objects out.
func (f *files) remove(name string) {
	old := f.known[name]
	delete(f.known, name)
	for key := range old.objects {
		f.release(name, key)
	}
}

// hold notes that a file gives an object and lets the catalog have the one that counts.
func (f *files) hold(name string, key objectKey) {
	holders := f.holders[key]
	if i, found := slices.BinarySearch(holders, name); !found {
		holders = slices.Insert(slices.Clip(holders), i, name)
		f.holders[key] = holders
		if len(holders) > 1 {
			f.log.Warn("object is in more than one file, the first is used", "object", key.String(),
				"used", holders[0], "files", strings.Join(holders, " "))
		}
	}
	f.put(key)
}

// release notes that a file gives an object no longer; the next file that has it takes over.
func (f *files) release(name string, key objectKey) {
	holders := f.holders[key]
	if i, found := slices.BinarySearch(holders, name); found {
		holders = slices.Delete(slices.Clone(holders), i, i+1)
	}
	if len(holders) > 0 {
		f.holders[key] = holders
		f.log.Info("object is no longer in a file, another has it", "object", key.String(),
			"file", name, "used", holders[0])
		f.put(key)
		return
	}
	delete(f.holders, key)
	switch key.kind {
	case "Service":
		f.catalog.removeService(render.ServiceName{Namespace: key.namespace, Name: key.name})
	case "EndpointSlice":
		f.catalog.removeSlice(objectName{key.namespace, key.name})
	case "Node":
		f.catalog.removeNode()
	}
}

// put hands the object that counts to the catalog, which does nothing if it has that one.
func (f *files) put(key objectKey) {
	o := f.known[f.holders[key][0]].objects[key]
	switch {
	case o.service != nil:
		f.catalog.putService(o.service)
	case o.slice != nil:
		f.catalog.putSlice(o.slice)
	case o.node != nil:
		f.catalog.putNode(o.node)
	}
}

// reportFindings logs what a file's last read did not find. A position is no part of a finding: what was bad is not
// reported again because a document was put before it.
func (f *files) reportFindings(name string, old, now []finding) {
	reported := map[Problem]bool{}
	for _, o := range old {
		reported[o.Problem] = true
	}
	for _, n := range now {
		if reported[n.Problem] {
			continue
		}
		level, message := slog.LevelWarn, "remark on a manifest"
		switch {
		case n.Skipped:
			level, message = slog.LevelDebug, "object skipped"
		case n.bad:
			level, message = slog.LevelError, "bad manifest, what was read of it before stays"
		}
		f.log.LogAttrs(context.Background(), level, message, attrs(name, n)...)
	}
}

// attrs are what is known of where a finding is.
func attrs(name string, f finding) []slog.Attr {
	all := []slog.Attr{slog.String("file", name)}
	if f.document > 0 {
		all = append(all, slog.Int("document", f.document))
	}
	for _, a := range []slog.Attr{
		slog.String("item", f.item),
		slog.String("object", f.Object),
		slog.String("field", f.Field),
		slog.String("detail", f.Detail),
	} {
		if a.Value.String() != "" {
			all = append(all, a)
		}
	}
	return all
}

func compareKeys(a, b objectKey) int { return strings.Compare(a.String(), b.String()) }
