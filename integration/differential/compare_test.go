package differential

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// difference is something that the two proxies do differently.
type difference struct {
	kind      kind
	what      string    // the probe, flow, client or health check
	question  *question // of a probe, flow or client
	back      bool      // of a client: it returns to an endpoint that it had before
	service   string    // of a health check node port
	before    string    // of a flow: what answered it before the edit
	kubeProxy string
	nfproxy   string
	last, now state    // before and after the edit
	recreated []string // objects that the edit deleted and created anew
}

// unexpected returns the differences that the list of deliberate ones does not explain.
func (a *arena) unexpected(all []difference) []difference {
	var rest []difference
	for _, d := range all {
		d.last, d.now, d.recreated = a.last, a.now, a.recreated
		if !isExpected(d) {
			rest = append(rest, d)
		}
	}
	return rest
}

func (d difference) String() string {
	return fmt.Sprintf("%s: %s\n    kube-proxy: %s\n    nfproxy:    %s", d.kind, d.what, d.kubeProxy, d.nfproxy)
}

// kind is what was compared.
type kind string

const (
	probed   kind = "probe"
	flowed   kind = "UDP flow"
	clients  kind = "client with session affinity"
	expiry   kind = "expired session affinity"
	answered kind = "health check"
)

// tally counts what was compared.
type tally struct{ clusters, edits, probes, flows, clients, healthChecks int }

func (t tally) String() string {
	return fmt.Sprintf("%d clusters, %d edits; compared: %d targets by place, %d UDP flows, %d affinity expiries, %d health checks",
		t.clusters, t.edits, t.probes, t.flows, t.clients, t.healthChecks)
}

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

// both calls f for each of the proxies, at the same time.
func both[T any](a *arena, f func(*contestant) (T, error)) (kubeProxy, nfproxy T, err error) {
	done := make(chan error)
	go func() {
		var err error
		kubeProxy, err = f(&a.kubeProxy)
		done <- err
	}()
	nfproxy, err = f(&a.nfproxy)
	if other := <-done; other != nil {
		err = other
	}
	return kubeProxy, nfproxy, err
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
			if !maps.Equal(k.outcomes[q], n.outcomes[q]) {
				texts := [2]string{k.outcomes[q].String(), n.outcomes[q].String()}
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
			moved := a.compareMoves(k, n)
			settled = append(settled, moved...)
		}
		if questions = again; len(again) == 0 {
			break
		}
	}
	return append(settled, found...), nil
}

// compareMoves returns the questions for which clients with session affinity left an endpoint that they could have kept, at
// nfproxy and not at kube-proxy.
func (a *arena) compareMoves(k, n observation) []difference {
	var found []difference
	moved := movesWithoutNeed(n, k, n)
	allowed := movesWithoutNeed(k, k, n)
	for key, m := range moved {
		if _, ok := allowed[key]; ok {
			continue
		}
		text := fmt.Sprintf("%s leaves %s, where it was by %s (%s) %v ago, for %s", m.client, m.from, m.by.to, m.by.what, m.after.Round(time.Millisecond), m.to)
		found = append(found, difference{kind: clients, what: key.question.String(), question: &key.question, back: m.back, kubeProxy: "keeps its endpoint", nfproxy: text})
	}
	return a.unexpected(found)
}

// moveKey distinguishes moves to new endpoints from moves back.
type moveKey struct {
	question question
	back     bool
}

// movesWithoutNeed returns the moves of an observation from an endpoint that is also one of the question's, while the client is
// remembered.
func movesWithoutNeed(o, k, n observation) map[moveKey]move {
	found := make(map[moveKey]move)
	for _, m := range o.moves {
		timeout := time.Duration(m.question.target.affinity) * time.Second
		if m.after < timeout/2 && k.outcomes[m.question].has(m.from) && n.outcomes[m.question].has(m.from) {
			found[moveKey{m.question, m.back}] = m
		}
	}
	return found
}

// has reports whether a server is among the outcomes, whatever source it sees.
func (o outcomes) has(server string) bool {
	for text := range o {
		if endpointOf(text) == server {
			return true
		}
	}
	return false
}

// compareExpiry waits until session affinity with a short timeout has expired, and compares whether clients are still where they
// were. Only clients of pools take part, and only Services with several endpoints.
func (a *arena) compareExpiry(targets []*target, count *tally) ([]difference, error) {
	const short = 2
	seen := make(map[string]bool)
	var questions []question
	for _, t := range targets {
		if t.affinity == short && t.what == "cluster IP" && !seen[t.port+t.to.String()] {
			seen[t.port+t.to.String()] = true
			questions = append(questions, question{t, "pod"})
		}
	}
	if len(questions) == 0 {
		return nil, nil
	}
	var found []difference
	for range 2 {
		e := effort{attempts: 20, timeout: time.Second}
		if _, _, err := both(a, func(c *contestant) (observation, error) { return observe(c.observers, questions, e) }); err != nil {
			return nil, err
		}
		time.Sleep((short + 1) * time.Second)
		k, n, err := both(a, func(c *contestant) (observation, error) { return observe(c.observers, questions, e) })
		if err != nil {
			return nil, err
		}
		found = nil
		for _, q := range questions {
			if len(k.outcomes[q]) < 2 || len(n.outcomes[q]) < 2 {
				continue
			}
			count.clients++
			if forgot, still := forgets(k, q), forgets(n, q); forgot != still {
				found = append(found, difference{kind: expiry, what: q.String(), question: &q, kubeProxy: forgot, nfproxy: still})
			}
		}
		if len(found) == 0 {
			return nil, nil
		}
	}
	return found, nil
}

func forgets(o observation, q question) string {
	for _, m := range o.moves {
		if m.question == q && m.after > 2*time.Second {
			return "forgets clients"
		}
	}
	return "remembers clients"
}

// compareFlows compares what an edit does to flows that were open before.
func (a *arena) compareFlows(kubeProxy, nfproxy []*flow, count *tally) ([]difference, error) {
	type result struct {
		with map[*flow]bool
		of   map[flowKey]outcomes
	}
	flows := map[*contestant][]*flow{&a.kubeProxy: kubeProxy, &a.nfproxy: nfproxy}
	list := func(c *contestant) (result, error) {
		with, err := entries(c.node, flows[c])
		return result{with, describe(flows[c], with)}, err
	}
	var k, n result
	var err error
	for deadline := time.Now().Add(4 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		if k, n, err = both(a, list); err != nil {
			return nil, err
		}
		if len(a.unexpected(flowDifferences(k.of, n.of))) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if _, _, err := both(a, func(c *contestant) (any, error) { return nil, exchange(flows[c], probeTimeout) }); err != nil {
		return nil, err
	}
	k.of, n.of = describe(kubeProxy, k.with), describe(nfproxy, n.with)
	count.flows += len(k.of)
	return a.unexpected(flowDifferences(k.of, n.of)), nil
}

// flowDifferences compares the flows that were at the same endpoint before.
func flowDifferences(k, n map[flowKey]outcomes) []difference {
	var found []difference
	for key, of := range k {
		if other, ok := n[key]; ok && !maps.Equal(of, other) {
			found = append(found, difference{kind: flowed, what: key.String(), question: &key.question, before: key.before, kubeProxy: of.String(), nfproxy: other.String()})
		}
	}
	return found
}

// compareHealth compares the answers of the proxies' HTTP servers.
func (a *arena) compareHealth(s state, count *tally) ([]difference, error) {
	questions := healthTargets(s)
	count.healthChecks += len(questions)
	var found []difference
	for i := range 8 {
		time.Sleep(time.Duration(i) * 100 * time.Millisecond)
		found = nil
		var again []healthTarget
		for _, h := range questions {
			if k, n := get(a.kubeProxy.node, h), get(a.nfproxy.node, h); k != n {
				found = append(found, difference{kind: answered, what: h.String(), service: h.service, kubeProxy: k, nfproxy: n})
				again = append(again, h)
			}
		}
		if found = a.unexpected(found); len(found) == 0 {
			return nil, nil
		}
		if questions = again; len(again) == 0 {
			return nil, nil
		}
	}
	return found, nil
}

// report returns the differences as text, at most some of them.
func report(all []difference) string {
	const most = 25
	var lines []string
	for i, d := range all {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(all)-most))
			break
		}
		lines = append(lines, d.String())
	}
	return strings.Join(lines, "\n")
}
