//go:build linux

package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"nfproxy/integration/machine"
	"os"
	"strconv"
	"time"
)

// sampler writes one row of measurements per interval. A value that could not be read, as during a restart, is empty.
type sampler struct {
	started  time.Time
	daemon   *daemon
	changer  *changer
	clients  *clients
	flows    *flows
	foreign  *foreign
	client   http.Client
	rows     *csv.Writer
	columns  []string // nil before the first row
	previous reading
	all      []sample

	// Sums over all processes so far: each process counts from 0.
	cpu, repairs, commits float64
	failedScrapes         int
}

// reading is what the next sample needs of the previous one.
type reading struct {
	at      time.Time
	pid     int
	usage   machine.Usage
	metrics *metrics
}

// sample is one row, by column.
type sample map[string]float64

const scrapeTimeout = time.Minute

func newSampler(w io.Writer) *sampler {
	return &sampler{rows: csv.NewWriter(w), client: http.Client{Timeout: scrapeTimeout}, started: time.Now(),
		previous: reading{at: time.Now(), metrics: newMetrics()}}
}

// run samples at an interval until ctx ends.
func (s *sampler) run(ctx context.Context, interval time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := s.sample(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sample takes one sample and writes it.
func (s *sampler) sample() error {
	row := &record{values: sample{}}
	row.add("elapsed_seconds", time.Since(s.started).Seconds())
	s.sampleLoad(row)
	if err := errors.Join(s.sampleNetwork(row), s.sampleMachine(row)); err != nil {
		return err
	}
	s.sampleDaemon(row)
	s.all = append(s.all, row.values)
	return s.write(row)
}

// sampleLoad adds what the soak itself has done so far.
func (s *sampler) sampleLoad(row *record) {
	row.add("services", float64(s.changer.existing.Load()))
	row.add("changes", float64(s.changer.changes.Load()))
	for of := range s.clients.tallies {
		t := &s.clients.tallies[of]
		row.add("connects_"+class(of).String(), float64(t.connects.Load()))
		row.add("failed_"+class(of).String(), float64(t.failed.Load()))
		row.add("slow_"+class(of).String(), float64(t.slow.Load()))
	}
	row.add("open_connection_answers", float64(s.clients.answers.Load()))
	row.add("repeated_datagrams", float64(s.clients.resent.Load()))
	row.add("open_connections_broken", float64(s.clients.broken.Load()))
	row.add("foreign_commits", float64(s.foreign.commits.Load()))
	row.add("foreign_deletions", float64(s.foreign.deletions.Load()))
	row.add("restarts", float64(s.daemon.restarts.Load()))
	row.add("last_restart_seconds", time.Duration(s.daemon.lastRestart.Load()).Seconds())
	row.add("kills", float64(s.daemon.kills.Load()))
	row.add("flows_inserted", float64(s.flows.inserted.Load()))
}

// sampleNetwork adds what the kernel tells about the network namespaces of the node and the clients.
func (s *sampler) sampleNetwork(row *record) error {
	repeated, err := s.clients.repeatedSYNs()
	if err != nil {
		return err
	}
	row.add("repeated_syns", repeated)
	entries, err := machine.NumberIn("/proc/sys/net/netfilter/nf_conntrack_count")
	row.add("conntrack_entries", entries)
	return err
}

// sampleMachine adds the memory and the load of the whole machine, and the CPU time of the soak itself.
func (s *sampler) sampleMachine(row *record) error {
	memory, err := machine.Memory()
	if err != nil {
		return err
	}
	row.add("slab_bytes", memory["Slab"])
	row.add("slab_unreclaimable_bytes", memory["SUnreclaim"])
	row.add("vmalloc_bytes", memory["VmallocUsed"])
	row.add("available_bytes", memory["MemAvailable"])
	load, err := machine.NumberIn("/proc/loadavg")
	if err != nil {
		return err
	}
	row.add("load_average", load)
	own, err := machine.UsageOf(os.Getpid())
	if err != nil {
		return err
	}
	row.add("soak_cpu_seconds", own.CPU)
	return nil
}

// sampleDaemon adds what /proc and the metrics tell about nfproxy.
func (s *sampler) sampleDaemon(row *record) {
	now := reading{at: time.Now(), pid: s.daemon.pid(), metrics: newMetrics()}
	var err error
	if now.usage, err = machine.UsageOf(now.pid); err != nil {
		now.usage = machine.Usage{Resident: math.NaN(), Peak: math.NaN(), Descriptors: math.NaN(), Threads: math.NaN()}
	}
	used := now.usage.CPU
	if now.pid == s.previous.pid {
		used = max(0, used-s.previous.usage.CPU)
	}
	s.cpu += used
	row.add("pid", float64(now.pid))
	row.add("resident_bytes", now.usage.Resident)
	row.add("peak_resident_bytes", now.usage.Peak)
	row.add("descriptors", now.usage.Descriptors)
	row.add("threads", now.usage.Threads)
	row.add("cpu_seconds", s.cpu)
	row.add("cpu_share", used/now.at.Sub(s.previous.at).Seconds())

	scraping := time.Now()
	if err := scrape(&s.client, now.metrics.add); err != nil {
		s.failedScrapes++
	}
	row.add("scrape_seconds", time.Since(scraping).Seconds())
	row.add("failed_scrapes", float64(s.failedScrapes))
	s.sampleMetrics(row, now.metrics)
	s.previous = now
}

// sampleMetrics adds the metrics of nfproxy; they are empty if it did not answer.
func (s *sampler) sampleMetrics(row *record, now *metrics) {
	value := func(name string) float64 {
		if v, ok := now.values[name]; ok {
			return v
		}
		return math.NaN()
	}
	row.add("goroutines", value("go_goroutines"))
	row.add("heap_bytes", value("go_memstats_heap_inuse_bytes"))
	row.add("quarantined", value("nfproxy_quarantined_services"))
	row.add("changes_pending", value("kubeproxy_sync_proxy_rules_service_changes_pending")+
		value("kubeproxy_sync_proxy_rules_endpoint_changes_pending"))
	before := s.previous.metrics
	repaired := now.values["nfproxy_repairs_total"]
	if old := before.values["nfproxy_repairs_total"]; repaired >= old {
		repaired -= old
	}
	s.repairs += repaired
	row.add("repairs", s.repairs)
	commits := now.histograms["nfproxy_commit_duration_seconds"].since(before.histograms["nfproxy_commit_duration_seconds"])
	s.commits += commits.total()
	row.add("commits", s.commits)
	row.add("commit_p50_seconds", commits.quantile(0.5))
	row.add("commit_p99_seconds", commits.quantile(0.99))
	effects := now.histograms["nfproxy_event_to_commit_seconds"].since(before.histograms["nfproxy_event_to_commit_seconds"])
	row.add("event_to_commit_p50_seconds", effects.quantile(0.5))
	row.add("event_to_commit_p99_seconds", effects.quantile(0.99))
}

// write writes a row, and the names of the columns before the first one.
func (s *sampler) write(row *record) error {
	if s.columns == nil {
		s.columns = row.names
		if err := s.rows.Write(s.columns); err != nil {
			return err
		}
	}
	var fields []string
	for _, name := range s.columns {
		text := ""
		if v := row.values[name]; !math.IsNaN(v) {
			text = strconv.FormatFloat(v, 'g', 9, 64)
		}
		fields = append(fields, text)
	}
	if err := s.rows.Write(fields); err != nil {
		return err
	}
	s.rows.Flush()
	if err := s.rows.Error(); err != nil {
		return fmt.Errorf("write samples: %w", err)
	}
	return nil
}

// record is a row whose columns have an order.
type record struct {
	names  []string
	values sample
}

func (r *record) add(name string, value float64) {
	r.names = append(r.names, name)
	r.values[name] = value
}
