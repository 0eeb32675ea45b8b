package watcher

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// manifestSet holds the manifests of a directory by file name and puts their objects into the catalog. If several files
// contain an object, the first file in name order provides it.
type manifestSet struct {
	log     *slog.Logger
	catalog *catalog
	byFile  map[string]manifest
	// files are the sorted names of the files that contain an object, almost always one.
	files map[objectKey][]string
}

func newManifestSet(log *slog.Logger, c *catalog) *manifestSet {
	return &manifestSet{log: log, catalog: c, byFile: map[string]manifest{}, files: map[objectKey][]string{}}
}

// set replaces the content of a file. If one of its documents is bad, objects that are no longer in the file stay in use,
// because the bad document may be theirs.
func (s *manifestSet) set(file string, now manifest) {
	old := s.byFile[file]
	s.logFindings(file, old.findings, now.findings)
	if now.bad() {
		for key, o := range old.objects {
			if _, ok := now.objects[key]; !ok {
				now.objects[key] = o
			}
		}
	}
	s.byFile[file] = now
	for key := range old.objects {
		if _, ok := now.objects[key]; !ok {
			s.removeObject(file, key)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(now.objects), compareKeys) {
		s.addObject(file, key)
	}
}

// fail records that a file cannot be read. Its last known objects stay in use.
func (s *manifestSet) fail(file string, err error) {
	now := manifest{
		objects:  s.byFile[file].objects,
		findings: []finding{{Problem: Problem{Detail: err.Error()}, bad: true}},
	}
	s.logFindings(file, s.byFile[file].findings, now.findings)
	s.byFile[file] = now
}

// remove removes a file and its objects.
func (s *manifestSet) remove(file string) {
	old := s.byFile[file]
	delete(s.byFile, file)
	for key := range old.objects {
		s.removeObject(file, key)
	}
}

// addObject records that a file contains an object.
func (s *manifestSet) addObject(file string, key objectKey) {
	files := s.files[key]
	if i, found := slices.BinarySearch(files, file); !found {
		files = slices.Insert(slices.Clip(files), i, file)
		s.files[key] = files
		if len(files) > 1 {
			s.log.Warn("object is in more than one file, the first is used", "object", key.String(),
				"used", files[0], "files", strings.Join(files, " "))
		}
	}
	s.put(key)
}

// removeObject records that a file no longer contains an object. The next file that contains it takes over.
func (s *manifestSet) removeObject(file string, key objectKey) {
	files := s.files[key]
	if i, found := slices.BinarySearch(files, file); found {
		files = slices.Delete(slices.Clone(files), i, i+1)
	}
	if len(files) == 0 {
		delete(s.files, key)
		s.catalog.remove(key)
		return
	}
	s.files[key] = files
	s.log.Info("object is no longer in this file, another file provides it", "object", key.String(), "file", file, "used", files[0])
	s.put(key)
}

// put puts the object of the first file into the catalog. The catalog ignores an object that it has already.
func (s *manifestSet) put(key objectKey) {
	first := s.files[key][0]
	s.catalog.put(s.byFile[first].objects[key])
}

// logFindings logs the findings that the previous read of a file did not have. The position in the file is not compared: a
// finding is not logged again because a document was inserted before it.
func (s *manifestSet) logFindings(file string, old, now []finding) {
	logged := map[Problem]bool{}
	for _, o := range old {
		logged[o.Problem] = true
	}
	for _, n := range now {
		if logged[n.Problem] {
			continue
		}
		level, message := slog.LevelWarn, "remark on a manifest"
		switch {
		case n.Skipped:
			level, message = slog.LevelDebug, "object skipped"
		case n.bad:
			level, message = slog.LevelError, "bad manifest; its last known objects stay in use"
		}
		s.log.LogAttrs(context.Background(), level, message, n.attrs(file)...)
	}
}

// attrs returns the log attributes of a finding, without those that are empty.
func (f finding) attrs(file string) []slog.Attr {
	all := []slog.Attr{slog.String("file", file)}
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
