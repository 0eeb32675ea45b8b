//go:build linux

package main

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// summary is the content of run.json: where and how the run was made, and its totals.
type summary struct {
	Date     string             `json:"date"`
	Commit   string             `json:"commit"`
	Kernel   string             `json:"kernel"`
	CPU      string             `json:"cpu"`
	CPUs     int                `json:"cpus"`
	Memory   float64            `json:"memory_bytes"`
	Go       string             `json:"go"`
	Command  string             `json:"command"`
	Seconds  float64            `json:"seconds"`
	Services int                `json:"services"`
	Classes  map[string]int     `json:"services_by_class"`
	Flows    int                `json:"flows"`
	Seed     uint64             `json:"seed"`
	Totals   map[string]float64 `json:"totals"`
	Messages map[string]int     `json:"log_messages"`
	Wrong    []string           `json:"wrong"`
}

// summarize describes a run that ended with these results.
func (s *soak) summarize(begun time.Time, revision string, wrong []string, failed error) summary {
	last := s.sampler.all[len(s.sampler.all)-1]
	memory, _ := memoryOfMachine() // the samples contain the error
	r := summary{
		Date: begun.UTC().Format("2006-01-02 15:04 UTC"), Commit: revision, Kernel: kernelRelease(), CPU: processor(),
		CPUs: runtime.NumCPU(), Memory: memory["MemTotal"], Go: runtime.Version(), Command: s.command(),
		Seconds: last["elapsed_seconds"], Services: s.Services, Flows: s.Flows, Seed: s.Seed,
		Classes: make(map[string]int), Totals: make(map[string]float64), Messages: s.daemon.log.messages(), Wrong: wrong,
	}
	if failed != nil {
		r.Wrong = append(r.Wrong, failed.Error())
	}
	for of := calm; of <= passing; of++ {
		r.Classes[of.String()] = s.changer.count(of)
	}
	for name, value := range last {
		if !math.IsNaN(value) {
			r.Totals[name] = value
		}
	}
	return r
}

func writeSummary(path string, r summary) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// commit returns the commit of the working tree, with "-dirty" if files differ from it.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// processor returns the model of the processor.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}
