package differential

import (
	"fmt"
	"strings"
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
type tally struct{ clusters, edits, probes, hashed, flows, clients, healthChecks int }

func (t tally) String() string {
	return fmt.Sprintf("%d clusters, %d edits; compared: %d targets by place, %d hashed connections, %d UDP flows, %d affinity expiries, %d health checks",
		t.clusters, t.edits, t.probes, t.hashed, t.flows, t.clients, t.healthChecks)
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
