package apichaos

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

// patience is how long a change may take to arrive. It is longer than the documented bound, because tests share the machine, and
// shorter than what client-go alone needs to notice a silent connection.
const patience = 40 * time.Second

// fault is a disturbance between one instance and the API server.
type fault struct {
	name string
	// lasts is the time from begin to end. A fault without end lasts until nfproxy avoids it; then tidy, if there is one, undoes it.
	begin, end, tidy func(*route)
	lasts            time.Duration
	env              []string // of nfproxy
}

// route is the way from an instance to the API server, over one of these.
type route struct {
	*instance
	relay *relay
	proxy *proxy
}

// relayFaults are faults of connections.
func relayFaults() []fault {
	silent := 20 * time.Second // longer than the bound for noticing a silent connection
	return []fault{
		{name: "refused", lasts: silent, begin: func(p *route) { p.relay.refuse() }, end: func(p *route) { p.relay.listen() }},
		{name: "silent", lasts: silent, begin: func(p *route) { p.relay.setSilent(true) }, end: func(p *route) { p.relay.setSilent(false) }},
		{name: "abandoned", begin: func(p *route) { p.relay.abandon() }},
		{name: "packets-dropped", lasts: silent, begin: func(p *route) { p.drop("") }, end: (*route).undrop},
		{name: "connection-forgotten", begin: func(p *route) { p.drop(p.ports()) }, tidy: (*route).undrop},
		{name: "connection-forgotten-http1", begin: func(p *route) { p.drop(p.ports()) }, tidy: (*route).undrop,
			env: []string{"DISABLE_HTTP2=1"}},
		{name: "cut-frames", lasts: 10 * time.Second, begin: func(p *route) { p.relay.setCut(6000) }, end: func(p *route) { p.relay.setCut(0) }},
	}
}

// ports returns the set of the local ports of the present connections, for drop.
func (p *route) ports() string { return "{" + strings.Join(p.relay.clientPorts(), ",") + "}" }

// drop drops all packets of connections to the API server from these local ports, or of all connections.
func (p *route) drop(ports string) {
	to, from := "tcp dport "+p.relay.port(), "tcp sport "+p.relay.port()
	if ports != "" {
		to, from = to+" tcp sport "+ports, from+" tcp dport "+ports
	}
	p.nft(fmt.Sprintf(`table ip chaos {
		chain to { type filter hook output priority 0; %s drop; }
		chain from { type filter hook input priority 0; %s drop; }
	}`, to, from))
}

func (p *route) undrop() { p.nft("delete", "table", "ip", "chaos") }

// proxyFaults are faults of responses.
func proxyFaults() []fault {
	var faults []fault
	add := func(name string, respond func(http.ResponseWriter, *http.Request) bool, body func(*http.Request, io.ReadCloser) io.ReadCloser) {
		faults = append(faults, fault{
			name: name, lasts: 12 * time.Second,
			begin: func(p *route) { p.proxy.set(respond, body) },
			end:   func(p *route) { p.proxy.set(nil, nil) },
		})
	}
	retry := func(seconds int32) *metav1.StatusDetails { return &metav1.StatusDetails{RetryAfterSeconds: seconds} }
	add("429", deny(metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests}), nil)
	add("429-retry-after-1", deny(metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests, Details: retry(1)}), nil)
	add("429-retry-after-3600", deny(metav1.Status{Code: 429, Reason: metav1.StatusReasonTooManyRequests, Details: retry(3600)}), nil)
	add("503-retry-after-3600", deny(metav1.Status{Code: 503, Reason: metav1.StatusReasonServiceUnavailable, Details: retry(3600)}), nil)
	add("410", deny(metav1.Status{Code: 410, Reason: metav1.StatusReasonExpired}), nil)
	add("500", deny(metav1.Status{Code: 500, Reason: metav1.StatusReasonInternalError}), nil)
	add("504-too-large-resource-version", deny(metav1.Status{Code: 504, Reason: metav1.StatusReasonTimeout, Details: &metav1.StatusDetails{
		RetryAfterSeconds: 1, Causes: []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}}}), nil)
	add("cut-events", nil, cutBody(func() int { return 1 + rand.IntN(3000) }))
	add("late-bookmarks", nil, lateBookmarks(3*time.Second))
	return faults
}

// environment is what the trials share.
type environment struct {
	api         string // address of the API server
	etcd        *relay // between the lagging API server and etcd
	undisturbed string // kubeconfig file for the API server itself
}

// laggingPort is the port of an API server that does not know the latest state while the relay to etcd is silent. Like older API
// servers it does not send the initial objects as a stream.
const laggingPort = 6444

// TestAPIFaults: during every fault the tables stay, and after it a change arrives and the tables are those of an undisturbed nfproxy.
func TestAPIFaults(t *testing.T) {
	c := cluster.New(t)
	api := net.JoinHostPort(cluster.NodeAddrs[0].String(), fmt.Sprint(controlplane.Port))
	undisturbed := c.Kubeconfig(account(c, api))
	etcd := newRelay(t, "127.0.0.1:0", "127.0.0.1:2379")
	c.AddAPIServer(laggingPort, "http://"+etcd.addr, "--feature-gates=WatchList=false")
	for n, trial := range []struct {
		name string
		run  func(*route, *environment)
	}{
		{"slow-list", slowList},
		{"lagging-server", laggingServer},
		{"rotated-token", rotatedToken},
		{"rotated-client-certificate", rotatedClientCertificate},
		{"rotated-authority", rotatedAuthority},
		{"certificate-not-yet-valid", certificateNotYetValid},
	} {
		r := &route{instance: newInstance(t, c, "t-"+trial.name, 100+n)}
		t.Run(trial.name, func(t *testing.T) {
			t.Parallel()
			r.t = t
			trial.run(r, &environment{api: api, etcd: etcd, undisturbed: undisturbed})
		})
	}
	for _, d := range startAll(t, c, api) {
		t.Run(d.fault.name, func(t *testing.T) {
			t.Parallel()
			d.route.t = t
			d.route.awaitFirst()
			var took []time.Duration
			for range *rounds {
				took = append(took, d.fault.try(d.route))
				d.route.check(undisturbed)
			}
			report(t, took)
		})
	}
}

// disturbed is an instance and the fault that it will meet.
type disturbed struct {
	fault fault
	route *route
}

// startAll starts an instance for each fault.
func startAll(t *testing.T, c *cluster.Cluster, api string) (all []disturbed) {
	t.Helper()
	start := func(f fault, r *route, addr string) {
		r.start(c.Kubeconfig(account(c, addr)), f.env...)
		all = append(all, disturbed{f, r})
	}
	for _, f := range relayFaults() {
		r := &route{instance: newInstance(t, c, "f-"+f.name, 10+len(all))}
		r.relay = newRelay(t, net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"), api)
		start(f, r, r.relay.addr)
	}
	for _, f := range proxyFaults() {
		r := &route{instance: newInstance(t, c, "f-"+f.name, 10+len(all)), proxy: newProxy(t, c)}
		start(f, r, r.proxy.addr)
	}
	return all
}

// try applies a fault, changes an endpoint during it, and returns the time from the end of the fault, or from the change if it
// does not end, to the arrival of the change.
func (f fault) try(p *route) time.Duration {
	p.t.Helper()
	f.begin(p)
	begin := time.Now()
	for ; time.Since(begin) < f.lasts/2; time.Sleep(200 * time.Millisecond) {
		if !p.serves() {
			p.t.Fatal("the endpoint is gone")
		}
	}
	p.change()
	since := time.Now()
	if f.end != nil {
		time.Sleep(time.Until(begin.Add(f.lasts)))
		f.end(p)
		since = time.Now()
	}
	p.await()
	took := time.Since(since)
	if f.tidy != nil {
		f.tidy(p)
	}
	return took
}

// report logs the durations, and appends them to the file of -apichaos.figures.
func report(t testing.TB, took []time.Duration) {
	slices.Sort(took)
	line := fmt.Sprintf("%s: %d times, median %.1f s, worst %.1f s", t.Name(), len(took), took[len(took)/2].Seconds(), took[len(took)-1].Seconds())
	t.Log(line)
	if *figures == "" {
		return
	}
	file, err := os.OpenFile(*figures, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fmt.Fprintln(file, line)
}
