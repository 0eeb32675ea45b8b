package compare

import (
	"context"
	"sync"
	"time"

	"nfproxy/integration/compare/record"
)

// A rolling update replaces all endpoints of the Service with many endpoints, a few of one slice in each update of a slice.
const (
	rollingRate = 100 // slices per second
	rollingStep = 10  // endpoints in each
	markerPause = 200 * time.Millisecond
)

// measureRollingUpdate measures the CPU time of a rolling update, and the lag behind it: the endpoint of the last Service is replaced
// all the while, and once more after the end, and the lag is the time from each of these requests to a connection.
func (r *trial) measureRollingUpdate(p *process) {
	t := r.t
	t.Helper()
	r.pace()
	used := p.cpu()
	ctx, cancel := context.WithCancel(t.Context())
	var marking sync.WaitGroup
	marking.Go(func() {
		defer cancel()
		r.measureLag(ctx)
	})
	begun := time.Now()
	updates, err := r.roll(ctx)
	took := time.Since(begun)
	cancel()
	marking.Wait()
	if err != nil {
		t.Fatal(err)
	}
	r.mark("after the last change")
	r.awaitIdle(p)
	r.add(rollingCPU, record.CPUSeconds, nil, p.cpu()-used)
	r.add(rollingPace, record.PerSecond, nil, float64(updates)/took.Seconds())
}

// roll makes the updates at the rate, and returns their number.
func (r *trial) roll(ctx context.Context) (updates int, err error) {
	all, err := r.population.slicesOf(r.t.Context(), numberedName(0))
	if err != nil {
		return 0, err
	}
	next := r.newAddrs()
	tick := time.NewTicker(time.Second / rollingRate)
	defer tick.Stop()
	for first := 0; first < sliceSize; first += rollingStep {
		for i := range all {
			select {
			case <-tick.C:
			case <-ctx.Done(): // the lag exceeds the bound
				return updates, nil
			}
			replaceEndpoints(&all[i], first, rollingStep, next)
			if err := r.population.update(r.t.Context(), &all[i]); err != nil {
				return updates, err
			}
			updates++
		}
	}
	return updates, nil
}

// measureLag replaces the endpoint of the last Service until ctx ends, or until the effect of one takes longer than the bound.
func (r *trial) measureLag(ctx context.Context) {
	for r.mark("during the changes") {
		select {
		case <-ctx.Done():
			return
		case <-time.After(markerPause):
		}
	}
}

// mark replaces the endpoint of the last Service and measures the time to a connection.
func (r *trial) mark(when string) bool {
	last := r.population.last
	to := backendAddrs[0]
	if last.slice.Endpoints[0].Addresses[0] == to {
		to = backendAddrs[1]
	}
	begun := time.Now()
	if err := last.serve(r.t.Context(), to); err != nil {
		r.t.Error(err)
		return false
	}
	took, ok := r.awaitAnswer(begun, r.bound, last.frontend, to)
	return r.addWithin(rolling, what(when), took, ok)
}
