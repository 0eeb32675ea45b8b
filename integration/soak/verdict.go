//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// growthBound is how many more descriptors, threads or goroutines nfproxy may have in the last quarter of a run than in the
// third, by the median: some connections more or less are no leak. In both quarters the same process runs.
const growthBound = 10

// verdict returns what does not hold, one sentence each.
func (s *sampler) verdict() []string {
	var wrong []string
	last := s.all[len(s.all)-1]
	for _, column := range []string{"failed_calm", "failed_changing", "open_connections_broken", "kills", "quarantined"} {
		if n := last[column]; n > 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %v", column, n))
		}
	}
	for _, column := range []string{"descriptors", "goroutines", "threads"} {
		first, final := s.quarter(column, 2), s.quarter(column, 3)
		if math.IsNaN(first) || math.IsNaN(final) || final > first+growthBound {
			wrong = append(wrong, fmt.Sprintf("%s grew from %v to %v, by the median of the third and the last quarter", column, first, final))
		}
	}
	for _, column := range []string{"connects_calm", "connects_changing", "open_connection_answers", "changes", "commits", "foreign_commits"} {
		if last[column] == 0 {
			wrong = append(wrong, column+" is 0: the run tested nothing")
		}
	}
	return wrong
}

// quarter returns the median of a column in one quarter of the samples, 0 to 3, or NaN if it has no value.
func (s *sampler) quarter(column string, number int) float64 {
	var values []float64
	for _, row := range s.all[len(s.all)*number/4 : len(s.all)*(number+1)/4] {
		if v := row[column]; !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return math.NaN()
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// checkTables returns a sentence unless the kernel's tables are as desired within a time.
func checkTables(d *daemon, within time.Duration) (string, error) {
	for deadline := time.Now().Add(within); ; time.Sleep(time.Second) {
		differences, err := d.differences()
		if err != nil || differences == "" {
			return "", err
		}
		if time.Now().After(deadline) {
			return fmt.Sprintf("the tables differ from the desired state:\n%.2000s", differences), nil
		}
	}
}
