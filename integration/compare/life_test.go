package compare

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/integration/scrape"
)

// Experiments. Page experiments.go describes them to readers.
const (
	list                 = "list"
	start                = "start"
	startCPU             = "start-cpu"
	startReceived        = "start-received"
	memory               = "memory"
	kernelMemoryOfTables = "kernel-memory"
	restart              = "restart"
	change               = "change"
	changeCPU            = "change-cpu"
	create               = "create"
	createRequests       = "create-requests"
	rolling              = "rolling"
	rollingCPU           = "rolling-cpu"
	rollingPace          = "rolling-pace"
	othersWait           = "others-wait"
	eventToCommit        = "event-to-commit"
)

// trial is one life of a proxy, on a node of its own.
type trial struct {
	*comparison
	*node
	size  size
	proxy record.Proxy
}

// add adds samples to a measurement of the trial's proxy and size.
func (r *trial) add(experiment, unit string, parameters map[string]string, samples ...float64) {
	r.measurement(experiment, unit, parameters).Add(samples...)
}

// addWithin adds a duration, or notes that it would have been longer than the bound. It returns ok.
func (r *trial) addWithin(experiment string, parameters map[string]string, took time.Duration, ok bool) bool {
	m := r.measurement(experiment, record.Seconds, parameters)
	if ok {
		m.Add(took.Seconds())
	} else {
		m.AddExceeded(r.bound.Seconds())
		log := r.node.proxy.Log.String()
		r.logf("%s takes longer than %v; the end of the proxy's log:\n%s", experiment, r.bound, log[max(0, len(log)-2000):])
	}
	return ok
}

func (r *trial) measurement(experiment, unit string, parameters map[string]string) *record.Measurement {
	return r.record.At(record.Measurement{Experiment: experiment, Proxy: r.proxy, Services: r.size.services, Endpoints: r.size.endpoints,
		Unit: unit, Parameters: parameters})
}

// what is the parameter by which the measurements of an experiment differ.
func what(text string) map[string]string { return map[string]string{"what": text} }

// logf prints progress.
func (r *trial) logf(format string, args ...any) { r.t.Logf(format, args...) }

// dial connects from the node.
func (r *trial) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return r.ns.Dial(ctx, network, "", addr)
}

// measureLife measures a proxy from its start on a node without rules to a restart. The changes, of which there are many in a trial, are
// left out after the first round.
func (r *trial) measureLife(round int) {
	if err := r.population.last.serve(r.t.Context(), backendAddrs[0]); err != nil {
		r.t.Fatal(err)
	}
	p, ok := r.measureStart()
	if !ok {
		r.logf("not measured further: the start takes longer than %v", r.bound)
		return
	}
	if round == 0 {
		r.measureChanges(p)
	}
	if r.size.services == 1 {
		r.measureRollingUpdate(p)
	}
	p = r.measureRestart(p)
	r.measureCreation(p) // at last: among many Services the API server can take too long to create more, which ends the trial
}

// measureStart starts the proxy and measures the time from the start of the process to a connection through the last Service; CPU
// time, memory and bytes from the API server until it is idle; and the memory of the kernel's tables.
func (r *trial) measureStart() (*process, bool) {
	t := r.t
	t.Helper()
	before, err := kernelMemory()
	if err != nil {
		t.Fatal(err)
	}
	p := r.start(r.proxy)
	took, ok := r.awaitAnswer(p.begun, r.bound, r.population.last.frontend, backendAddrs[0])
	if !r.addWithin(start, nil, took, ok) {
		return p, false
	}
	if mode := " " + shortName(r.proxy) + " Proxier"; r.proxy != record.Nfproxy && !strings.Contains(p.Log.String(), "Using"+mode) {
		t.Errorf("kube-proxy does not log that it uses the%s", mode)
	}
	r.awaitIdle(p)
	after, err := kernelMemory()
	if err != nil {
		t.Fatal(err)
	}
	r.add(startCPU, record.CPUSeconds, nil, p.cpu())
	r.add(startReceived, record.Bytes, nil, r.received())
	r.add(memory, record.Bytes, what("peak"), p.peakMemory())
	r.add(memory, record.Bytes, what("steady"), p.readMemory())
	if after["slab"] <= before["slab"] {
		r.logf("the memory of the kernel is not measured: meanwhile more was freed elsewhere")
	} else {
		for kind := range after {
			r.add(kernelMemoryOfTables, record.Bytes, what(kind), max(0, after[kind]-before[kind]))
		}
	}
	r.logf("start %v", took.Round(time.Millisecond))
	return p, true
}

// awaitIdle waits until the proxy is idle, and fails the trial if it is busy for longer than the bound.
func (r *trial) awaitIdle(p *process) {
	r.t.Helper()
	if !p.awaitIdle(r.bound) {
		r.t.Errorf("%s is not idle within %v", r.proxy, r.bound)
	}
}

// pace waits before a change. kube-proxy waits for a second between two updates of its rules (minSyncPeriod), which is not what is
// measured; nfproxy does not wait.
func (r *trial) pace() {
	if r.proxy != record.Nfproxy {
		time.Sleep(time.Second)
	}
}

// measureChanges replaces the endpoint of the last Service, and adds and removes one, and measures the time from the request to the
// connections. It measures the CPU time of replacements as well.
func (r *trial) measureChanges(p *process) {
	t := r.t
	t.Helper()
	a, b := backendAddrs[0], backendAddrs[1]
	before := r.metrics() // which takes CPU time
	used, replaced := p.cpu(), 0
	r.repeat(func() bool {
		replaced++
		a, b = b, a
		return r.measureChange("replaced", func(begun time.Time) (time.Duration, bool) {
			return r.awaitAnswer(begun, r.bound, r.population.last.frontend, a)
		}, a)
	})
	r.awaitIdle(p)
	r.add(changeCPU, record.CPUSeconds, what("replaced"), (p.cpu()-used)/float64(replaced))
	r.addEventToCommit(before)
	r.repeat(func() bool {
		return r.measureChange("added", func(begun time.Time) (time.Duration, bool) {
			return r.awaitAnswer(begun, r.bound, r.population.last.frontend, b)
		}, a, b) && r.measureChange("removed", func(begun time.Time) (time.Duration, bool) {
			return r.awaitNoAnswer(begun, r.bound, r.population.last.frontend, b)
		}, a)
	})
	if r.size.services == 1 {
		r.measureChangesOfLarge()
	}
}

// metrics returns the metrics of nfproxy, and none of others.
func (r *trial) metrics() *scrape.Metrics {
	r.t.Helper()
	all := scrape.New()
	if r.proxy == record.Nfproxy {
		client := http.Client{Timeout: r.bound, Transport: &http.Transport{DialContext: r.dial, DisableKeepAlives: true}}
		if err := all.Read(&client, "127.0.0.1:10249"); err != nil {
			r.t.Fatal(err)
		}
	}
	return all
}

// addEventToCommit adds the quantiles of nfproxy's own measurement of the changes since a scrape.
func (r *trial) addEventToCommit(before *scrape.Metrics) {
	r.t.Helper()
	const name = "nfproxy_event_to_commit_seconds"
	h := r.metrics().Histograms[name].Since(before.Histograms[name])
	if r.proxy != record.Nfproxy {
		return
	}
	if h.Total() == 0 {
		r.t.Errorf("nfproxy has no %s", name)
	}
	r.add(eventToCommit, record.Seconds, what("median"), h.Quantile(0.5))
	r.add(eventToCommit, record.Seconds, what("99th percentile"), h.Quantile(0.99))
}

// measureChange makes endpoints those of the last Service, and measures the time until await sees the effect.
func (r *trial) measureChange(kind string, await func(begun time.Time) (time.Duration, bool), addrs ...string) bool {
	r.t.Helper()
	r.pace()
	begun := time.Now()
	if err := r.population.last.serve(r.t.Context(), addrs...); err != nil {
		r.t.Fatal(err)
	}
	took, ok := await(begun)
	return r.addWithin(change, what(kind), took, ok)
}

// repeat calls f until it returns false, until there are enough samples, or until the budget is used. At least leastSamples are made.
func (r *trial) repeat(f func() bool) {
	begun := time.Now()
	for i := range r.samples {
		if i >= leastSamples && time.Since(begun) > r.budget || !f() {
			return
		}
	}
}

// measureChangesOfLarge replaces one endpoint of the Service with many endpoints, and right after it the endpoint of the last Service,
// and measures the time from the first request to a connection to the latter. Proxies program both in order or together.
func (r *trial) measureChangesOfLarge() {
	t := r.t
	t.Helper()
	all, err := r.population.slicesOf(t.Context(), numberedName(0))
	if err != nil {
		t.Fatal(err)
	}
	slice, a, b, next := &all[0], backendAddrs[0], backendAddrs[1], r.newAddrs()
	if err := r.population.last.serve(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	r.awaitAnswer(time.Now(), r.bound, r.population.last.frontend, a)
	i := 0
	r.repeat(func() bool {
		r.pace()
		a, b = b, a
		replaceEndpoints(slice, i, 1, next)
		i++
		begun := time.Now()
		if err := r.population.update(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
		if err := r.population.last.serve(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		took, ok := r.awaitAnswer(begun, r.bound, r.population.last.frontend, a)
		return r.addWithin(change, what("one of many replaced"), took, ok)
	})
}

// newAddrs returns a function that returns another address without a pod at each call.
func (r *trial) newAddrs() func() string {
	return func() string {
		r.population.spent++
		return missingAddr(mostEndpoints + r.population.spent%mostEndpoints)
	}
}

// created is how many Services are created at once.
const created = 100

func createdName(i int) string { return fmt.Sprintf("created-%d", i) }

// measureCreation creates Services at once, and measures the time from the first request until all of them answer.
func (r *trial) measureCreation(p *process) {
	t := r.t
	t.Helper()
	r.pace()
	remove := func(ctx context.Context) error {
		return inParallel(created, func(i int) error { return r.population.remove(ctx, createdName(i)) })
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = remove(context.Background()) // for the next trial
		}
	})
	services, used := make([]*service, created), p.cpu()
	begun := time.Now()
	err := inParallel(created, func(i int) (err error) {
		services[i], err = r.population.add(t.Context(), createdName(i), "", backendAddrs[0])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	requested := time.Since(begun)
	took, ok := requested, true
	for i := created - 1; i >= 0 && ok; i-- { // the last one is probably the last one to answer
		if _, err := r.ask(services[i].frontend, longest); i == created-1 || err != nil {
			took, ok = r.awaitAnswer(begun, r.bound, services[i].frontend, backendAddrs[0])
		}
	}
	r.addWithin(create, nil, took, ok)
	r.add(createRequests, record.Seconds, nil, requested.Seconds())
	r.awaitIdle(p)
	r.add(changeCPU, record.CPUSeconds, what(fmt.Sprintf("%d Services created", created)), p.cpu()-used)
	if err := remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitIdle(p)
}

// measureRestart ends the proxy, changes the endpoint of the last Service, starts the proxy again over its rules, and measures the
// time from the start of the process to a connection to the new endpoint. It returns the new process.
func (r *trial) measureRestart(p *process) *process {
	t := r.t
	t.Helper()
	p.end()
	answer, err := r.ask(r.population.last.frontend, cluster.Timeout)
	if err != nil {
		t.Errorf("without the process the rules do not serve: %v", err)
	}
	other := backendAddrs[0]
	if answer == other {
		other = backendAddrs[1]
	}
	if err := r.population.last.serve(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	again := r.start(r.proxy)
	took, ok := r.awaitAnswer(again.begun, r.bound, r.population.last.frontend, other)
	r.addWithin(restart, nil, took, ok)
	r.logf("restart %v", took.Round(time.Millisecond))
	if ok {
		r.awaitIdle(again)
	}
	return again
}
