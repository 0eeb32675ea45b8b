package compare

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/integration/controlplane"
)

// apiURL is the URL of the API server for the nodes.
var apiURL = controlplane.URL(cluster.NodeAddrs[0])

// comparison is a run: for each size, trials of the proxies in alternation.
type comparison struct {
	options
	*cluster.Cluster
	population *population
	program    string // path of nfproxy
	record     record.Record
}

// TestCompare measures nfproxy and kube-proxy. With the default flags it is a short run that shows that every experiment works with
// every proxy; `make bench-compare` is the long one.
func TestCompare(t *testing.T) {
	o, err := parseOptions()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	c := &comparison{options: o, Cluster: cluster.New(t)}
	if c.record, err = record.Begin(".", o.command()); err != nil {
		t.Fatal(err)
	}
	c.record.Note = *note
	if c.out == "" {
		c.out = filepath.Join(t.TempDir(), record.ControlPlaneFile)
	}
	c.program = filepath.Join(cluster.BuildAgent(t), "nfproxy")
	c.AddNode(nodeName, nodeAddrs...)
	c.ApplyAll(cluster.ReadManifest(t, cluster.KubeadmManifest))
	c.population = newPopulation(t, c.Cluster)
	for _, s := range o.sizes {
		c.measureSize(t, s)
		c.record.Seconds = time.Since(begun).Round(time.Second).Seconds()
		if err := c.record.Write(c.out); err != nil { // after each size: an interrupted run keeps what it has
			t.Fatal(err)
		}
	}
	c.check(t)
}

// measureSize measures all proxies at a size.
func (c *comparison) measureSize(t *testing.T, s size) {
	t.Helper()
	begun := time.Now()
	if err := c.population.resize(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: the API server has the objects after %v", s, time.Since(begun).Round(time.Second))
	c.run(t, s, record.None, "list", func(r *trial) { r.measureList() })
	all := c.proxiesAt(s)
	slow := make(map[record.Proxy]bool)
	for round := range c.rounds {
		for i := range all {
			proxy := all[(i+round)%len(all)] // another one is first in each round
			if slow[proxy] {
				t.Logf("%s %s: not repeated, because a trial takes more than %v", s, proxy, 6*c.budget)
				continue
			}
			begun := time.Now()
			c.run(t, s, proxy, fmt.Sprintf("%s-%d", shortName(proxy), round+1), func(r *trial) { r.measureLife(round) })
			slow[proxy] = time.Since(begun) > 6*c.budget
			if round == 0 && c.hasStarted(s, proxy) {
				c.run(t, s, proxy, shortName(proxy)+"-others-wait", func(r *trial) { r.measureWait() })
			}
		}
	}
}

// hasStarted reports whether a proxy has started within the bound at a size.
func (c *comparison) hasStarted(s size, proxy record.Proxy) bool {
	return slices.ContainsFunc(c.record.Measurements, func(m record.Measurement) bool {
		return m.Experiment == start && m.Proxy == proxy && m.Services == s.services && m.Endpoints == s.endpoints && m.Count > 0
	})
}

// run runs a trial as a subtest, so that one that fails does not end the others, and all that belongs to it ends with it.
func (c *comparison) run(t *testing.T, s size, proxy record.Proxy, name string, measure func(*trial)) {
	t.Helper()
	begun := time.Now()
	t.Run(s.String()+"/"+name, func(t *testing.T) {
		if err := settle(); err != nil {
			t.Fatal(err)
		}
		measure(&trial{comparison: c, node: newNode(t, c.Cluster, c.program), size: s, proxy: proxy})
	})
	fmt.Fprintf(os.Stderr, "%s %s %s: %v\n", time.Now().UTC().Format(time.TimeOnly), s, name, time.Since(begun).Round(time.Second))
}

// check fails the test unless there is a result of each proxy at each size for each experiment of all sizes. A proxy that has not started
// within the bound has no others.
func (c *comparison) check(t *testing.T) {
	t.Helper()
	for _, s := range c.sizes {
		for _, proxy := range c.proxiesAt(s) {
			if !c.hasStarted(s, proxy) {
				if proxy == record.Nfproxy {
					t.Errorf("%s: nfproxy has not started", s)
				}
				continue
			}
			for _, experiment := range []string{start, startCPU, startReceived, memory, restart, change, changeCPU, create, othersWait} {
				if !slices.ContainsFunc(c.record.Measurements, func(m record.Measurement) bool {
					return m.Experiment == experiment && m.Proxy == proxy && m.Services == s.services && m.Endpoints == s.endpoints
				}) {
					t.Errorf("%s: no measurement %s of %s", s, experiment, proxy)
				}
			}
		}
	}
}

// measureList measures how long client-go takes to list the same objects over the same link, which no proxy can do without.
func (r *trial) measureList() {
	config := r.AdminConfig()
	config.Host, config.ContentType = apiURL, "application/vnd.kubernetes.protobuf"
	config.Dial = r.dial
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		r.t.Fatal(err)
	}
	for range 3 {
		begun, options := time.Now(), metav1.ListOptions{ResourceVersion: "0"}
		if _, err := client.CoreV1().Services("").List(r.t.Context(), options); err != nil {
			r.t.Fatal(err)
		}
		if _, err := client.DiscoveryV1().EndpointSlices("").List(r.t.Context(), options); err != nil {
			r.t.Fatal(err)
		}
		r.add(list, record.Seconds, nil, time.Since(begun).Seconds())
	}
}

// replaceEndpoints gives n endpoints of a slice, from number first on, other addresses.
func replaceEndpoints(slice *discoveryv1.EndpointSlice, first, n int, newAddr func() string) {
	for i := range n {
		e := &slice.Endpoints[(first+i)%len(slice.Endpoints)]
		e.Addresses = slices.Insert(e.Addresses[:0:0], 0, newAddr())
	}
}
