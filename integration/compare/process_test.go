package compare

import (
	"math"
	"sync"
	"syscall"
	"testing"
	"time"

	"nfproxy/integration/cluster"
	"nfproxy/integration/machine"
)

// process is a proxy that runs on a node. Its usage includes that of the programs that it starts.
type process struct {
	*cluster.Process
	t     *testing.T
	begun time.Time

	mu   sync.Mutex
	peak float64 // most resident bytes of the process and its descendants together
	stop chan struct{}
}

// watchInterval is how often the memory of a process and its descendants is read. The programs that kube-proxy starts take longer if
// they need much memory.
const watchInterval = 20 * time.Millisecond

// watch reads the memory of the process until the trial ends.
func (p *process) watch() {
	p.stop = make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.readMemory()
			}
		}
	})
	p.t.Cleanup(func() {
		close(p.stop)
		watching.Wait()
	})
}

// readMemory returns the resident memory of the process and its descendants, and notes the peak. Pages that they share count for each.
func (p *process) readMemory() float64 {
	sum := 0.0
	for _, pid := range machine.Descendants(p.Cmd.Process.Pid) {
		sum += machine.Resident(pid)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peak = max(p.peak, sum)
	return sum
}

// peakMemory returns the most resident bytes so far.
func (p *process) peakMemory() float64 {
	p.t.Helper()
	p.readMemory()
	own, err := machine.UsageOf(p.Cmd.Process.Pid)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.peak, own.Peak)
}

// cpu returns the CPU seconds of the process and of its descendants, both those that have ended and those that run.
func (p *process) cpu() float64 {
	p.t.Helper()
	pid := p.Cmd.Process.Pid
	own, err := machine.UsageOf(pid)
	if err != nil {
		p.t.Fatal(err)
	}
	sum := own.ChildrenCPU
	for _, each := range machine.Descendants(pid) {
		seconds, err := machine.CPUTime(each)
		if err != nil && each == pid {
			p.t.Fatal(err)
		}
		sum += seconds // 0 for a child that has just ended
	}
	return sum
}

// awaitIdle waits until the process and its descendants have used little CPU time for a second. It reports whether that was within the
// bound.
func (p *process) awaitIdle(bound time.Duration) bool {
	p.t.Helper()
	const idle = 0.03
	for begun := time.Now(); time.Since(begun) < bound; {
		before := p.cpu()
		time.Sleep(time.Second)
		if p.cpu()-before < idle {
			return true
		}
	}
	return false
}

// end ends the process with SIGTERM; its rules stay.
func (p *process) end() { p.End(syscall.SIGTERM) }

// kernelMemory returns the memory of the kernel by kind, and in total, in bytes, of the whole machine.
func kernelMemory() (map[string]float64, error) {
	fields, err := machine.Memory()
	if err != nil {
		return nil, err
	}
	objects, err := machine.AllocatedObjects()
	if err != nil {
		return nil, err
	}
	all := map[string]float64{"slab": objects, "percpu": fields["Percpu"], "vmalloc": fields["VmallocUsed"]}
	all["total"] = all["slab"] + all["percpu"] + all["vmalloc"]
	return all, nil
}

// settle waits until the memory of the kernel does not shrink any more, for at most a minute: the namespace of the last trial ends in
// the background.
func settle() error {
	const interval, still, calm = 500 * time.Millisecond, 256 << 10, 3
	before := math.Inf(1)
	for begun, quiet := time.Now(), 0; quiet < calm && time.Since(begun) < time.Minute; {
		now, err := kernelMemory()
		if err != nil {
			return err
		}
		if quiet++; before-now["total"] > still {
			quiet = 0
		}
		before = now["total"]
		time.Sleep(interval)
	}
	return nil
}
