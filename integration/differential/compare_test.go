package differential

import (
	"slices"
	"time"
)

// probeTimeout is how long a probe waits before it counts as dropped. On an idle machine answers take a millisecond. A SYN is sent
// again after a second (TCP_TIMEOUT_INIT in include/net/tcp.h).
const (
	probeTimeout    = 400 * time.Millisecond
	repeatedTimeout = 1500 * time.Millisecond
)

// efforts are how probes are repeated while there are differences: a proxy may still be at work, a random choice may not have
// been made yet, or the machine may be slow.
var efforts = []effort{
	{attempts: 10, timeout: probeTimeout},
	{attempts: 40, fresh: true, timeout: repeatedTimeout},
	{attempts: 80, fresh: true, timeout: repeatedTimeout},
	{attempts: 80, fresh: true, timeout: 2 * repeatedTimeout},
}

// compareAgain compares probes, and once more after a restart of kube-proxy if there are differences: once in some hundred starts
// kube-proxy v1.36.3 was seen to ignore the zone of its Node until it was restarted.
func (a *arena) compareAgain(targets []*target, count *tally) ([]difference, error) {
	found, err := a.compareProbes(targets, count)
	probes := func(d difference) bool { return d.kind == probed }
	if err != nil || !slices.ContainsFunc(found, probes) {
		return found, err
	}
	if err := a.startKubeProxy(); err != nil {
		return nil, err
	}
	if err := a.store(a.now); err != nil { // with the next marker
		return nil, err
	}
	if err := a.awaitSync(); err != nil {
		return nil, err
	}
	again, err := a.compareProbes(targets, new(tally))
	return append(slices.DeleteFunc(found, probes), again...), err
}

func countArrivals(o observation) int {
	count := 0
	for _, all := range o.arrivals {
		count += len(all)
	}
	return count
}

// compareRestarted restarts nfproxy and compares the targets that hash again: no client may reach another endpoint than before.
func (a *arena) compareRestarted(count *tally) ([]difference, error) {
	hashing := slices.DeleteFunc(targetsOf(a.now), func(t *target) bool { return t.hash == "" })
	if len(hashing) == 0 {
		return nil, nil
	}
	if err := a.startNfproxy(); err != nil {
		return nil, err
	}
	if err := a.store(a.now); err != nil { // with the next marker
		return nil, err
	}
	if err := a.awaitSync(); err != nil {
		return nil, err
	}
	found, err := a.compareProbes(hashing, count)
	for i := range found {
		found[i].what = "after a restart of nfproxy: " + found[i].what
	}
	return found, err
}

// compareProbes sends probes to every target from every place, and returns what differs even if it is repeated.
func (a *arena) compareProbes(targets []*target, count *tally) ([]difference, error) {
	var questions []question
	for _, p := range a.kubeProxy.places {
		for _, t := range targets {
			if !(t.what == "node port" && slices.Contains(linkLocal, t.to.Addr()) && p.name != "pod") {
				questions = append(questions, question{t, p.name})
			}
		}
	}
	count.probes += len(questions)
	var found, settled []difference
	last := make(map[question][2]string)
	for i, e := range efforts {
		if i > 0 {
			time.Sleep(time.Duration(i) * 200 * time.Millisecond)
		}
		k, n, err := both(a, func(c *contestant) (observation, error) { return observe(c.observers, questions, e) })
		if err != nil {
			return nil, err
		}
		found = nil
		var again []question
		for _, q := range questions {
			if kText, nText, differ := a.differs(q, k, n); differ {
				texts := [2]string{kText, nText}
				one := a.unexpected([]difference{{kind: probed, what: q.String(), question: &q, kubeProxy: texts[0], nfproxy: texts[1]}})
				if len(one) == 0 {
					continue
				}
				if i > 1 && last[q] == texts {
					settled = append(settled, one...)
					continue
				}
				last[q] = texts
				found = append(found, one...)
				again = append(again, q)
			}
		}
		if i == 0 {
			count.hashed += countArrivals(n)
			moved := a.compareMoves(k, n)
			settled = append(settled, moved...)
		}
		if questions = again; len(again) == 0 {
			break
		}
	}
	return append(settled, found...), nil
}
