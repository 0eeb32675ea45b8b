package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// samples are the columns of samples.csv by name. A missing value is NaN.
type samples map[string][]float64

func readSamples(path string) (samples, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) < 5 {
		return nil, fmt.Errorf("%s has %d lines, too few for a report", path, len(rows))
	}
	all := make(samples)
	for _, row := range rows[1:] {
		for i, text := range row {
			value := math.NaN()
			if text != "" {
				if value, err = strconv.ParseFloat(text, 64); err != nil {
					return nil, fmt.Errorf("%s: column %s: %w", path, rows[0][i], err)
				}
			}
			all[rows[0][i]] = append(all[rows[0][i]], value)
		}
	}
	return all, nil
}

// rate returns the increase of a column per second, from each sample to the next.
func (s samples) rate(column string) []float64 {
	values, seconds := s[column], s["elapsed_seconds"]
	rates := make([]float64, len(values))
	rates[0] = math.NaN()
	for i := 1; i < len(values); i++ {
		rates[i] = (values[i] - values[i-1]) / (seconds[i] - seconds[i-1])
	}
	return rates
}

// scaled returns the values of a column divided by a unit.
func (s samples) scaled(column string, unit float64) []float64 {
	values := slices.Clone(s[column])
	for i := range values {
		values[i] /= unit
	}
	return values
}

// known returns the values that are not missing, in ascending order.
func known(values []float64) []float64 {
	values = slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	slices.Sort(values)
	return values
}

// median returns the median of the values that are not missing, or NaN.
func median(values []float64) float64 {
	values = known(values)
	if len(values) == 0 {
		return math.NaN()
	}
	return values[len(values)/2]
}

// quarter returns the values of a column in one quarter of the samples, 0 to 3.
func (s samples) quarter(column string, number int) []float64 {
	values := s[column]
	return values[len(values)*number/4 : len(values)*(number+1)/4]
}

// run is the content of run.json.
type run struct {
	Date, Commit, Kernel, CPU, Go, Command string
	CPUs                                   int
	Memory                                 float64 `json:"memory_bytes"`
	Seconds                                float64
	Services, Flows                        int
	Classes                                map[string]int `json:"services_by_class"`
	Totals                                 map[string]float64
	Messages                               map[string]int `json:"log_messages"`
	Wrong                                  []string
	Note                                   string `json:"-"` // a sentence about the machine
}

// readRun reads run.json and the note in a directory.
func readRun(dir string) (run, error) {
	var r run
	text, err := os.ReadFile(filepath.Join(dir, runFile))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", runFile, err)
	}
	note, err := os.ReadFile(filepath.Join(dir, noteFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	r.Note = strings.TrimSpace(string(note))
	return r, nil
}
