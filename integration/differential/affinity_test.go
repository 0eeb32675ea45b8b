package differential

import (
	"fmt"
	"time"
)

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

// compareExpiry waits until session affinity with a short timeout has expired, and compares whether clients are still where they
// were. Only clients of pools take part, and only Services with several endpoints that do not hash: a hash does not forget.
func (a *arena) compareExpiry(targets []*target, count *tally) ([]difference, error) {
	const short = 2
	seen := make(map[string]bool)
	var questions []question
	for _, t := range targets {
		if t.affinity == short && t.hash == "" && t.what == "cluster IP" && !seen[t.port+t.to.String()] {
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
