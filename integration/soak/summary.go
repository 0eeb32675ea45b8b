//go:build linux

package main

import (
	"encoding/json"
	"math"
	"nfproxy/integration/machine"
	"os"
	"runtime"
	"time"
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
	memory, _ := machine.Memory() // the samples contain the error
	r := summary{
		Date: begun.UTC().Format("2006-01-02 15:04 UTC"), Commit: revision, Kernel: machine.KernelRelease(), CPU: machine.Processor(),
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
