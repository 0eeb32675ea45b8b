//go:build linux

package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Names of the files in docs/benchmarks.
const (
	ControlPlaneFile = "control-plane.json"
	DataPathFile     = "data-path.json"
)

// Write sorts the measurements and writes the record as JSON, with one measurement per line.
func (r *Record) Write(path string) error {
	r.Sort()
	head := *r
	head.Measurements = nil
	text, err := json.MarshalIndent(head, "", "  ")
	if err != nil {
		return err
	}
	start, ok := bytes.CutSuffix(text, []byte("null\n}"))
	if !ok {
		return errors.New("the measurements are not the last field of a record")
	}
	text = append(start, '[')
	for i, m := range r.Measurements {
		line, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Key(), err)
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(append(text, "\n    "...), line...)
	}
	return os.WriteFile(path, append(text, "\n  ]\n}\n"...), 0o644)
}

// Read reads a record. It returns an error for fields that a record does not have.
func Read(path string) (Record, error) {
	var r Record
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// ReadDir reads all records in a directory, the files *.json, in the order of their names. Of several with the same measurement, the one
// with the latest date keeps it. It returns an error if there is none, or if two were made on different machines.
func ReadDir(dir string) ([]Record, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s has no records", dir)
	}
	var all []Record
	latest := make(map[string]int) // in all, by measurement
	for i, path := range paths {
		r, err := Read(path)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		if r.Machine != all[0].Machine {
			return nil, fmt.Errorf("%s and %s were made on different machines: %+v and %+v", paths[0], path, all[0].Machine, r.Machine)
		}
		for _, m := range r.Measurements {
			if other, ok := latest[m.Key()]; !ok || all[other].Date <= r.Date {
				latest[m.Key()] = i
			}
		}
	}
	for i := range all {
		all[i].Measurements = slices.DeleteFunc(all[i].Measurements, func(m Measurement) bool { return latest[m.Key()] != i })
	}
	return all, nil
}
