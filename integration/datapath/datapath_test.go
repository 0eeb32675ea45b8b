package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"nfproxy/conntrack"
	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/integration/controlplane"
	"nfproxy/nft"
	"nfproxy/sandbox"
)

const defaultPatience = 5 * time.Minute

// comparison is a run of the comparison.
type comparison struct {
	t          testing.TB
	record     record.Record
	population *population
	kubeconfig string
	nodes      []*node
}

// TestDataPath compares the proxies. Each connection of each round must be answered, and connection tracking must have seen it; how
// long it takes is recorded, and decides nothing.
func TestDataPath(t *testing.T) {
	began := time.Now()
	c := newComparison(t)
	detailed := false
	for text := range strings.FieldsSeq(*sizes) {
		n, err := strconv.Atoi(text)
		check(t, err)
		detailed = detailed || n >= *detail
		c.population.grow(n, detailed)
		ready := c.program(n)
		for _, trial := range trials(detailed && n == *detail) {
			c.measure(trial, n, ready)
		}
		if n == *detail && *streaming > 0 {
			c.stream(n, ready)
		}
	}
	if *firstPacket != "" {
		text, err := os.ReadFile(*firstPacket)
		check(t, err)
		check(t, c.record.AddBenchmarks(string(text)))
	}
	c.record.Seconds = time.Since(began).Round(time.Second).Seconds()
	if *recordFile != "" {
		check(t, c.record.Write(*recordFile))
	}
	for _, m := range c.record.Measurements {
		t.Logf("%s: %.5g (%.5g to %.5g) %s", m.Key(), m.P50, m.Min, m.Max, m.Unit)
	}
	t.Log(c.record.Note)
}

// newComparison starts an API server and makes a node for each proxy.
func newComparison(t testing.TB) *comparison {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	check(t, err)
	t.Cleanup(func() { ns.Close() })
	plane := controlplane.Start(t, ns)
	c := &comparison{t: t, kubeconfig: plane.Kubeconfig(plane.AdminConfig()), population: newPopulation(t, ns, plane.AdminConfig())}
	c.record, err = record.Begin(".", *command)
	check(t, err)
	if *backend != "" {
		c.note("kube-proxy's iptables mode runs iptables-%s.", *backend)
	}
	for _, proxy := range record.Proxies() {
		if !slices.Contains(strings.Split(*proxies, ","), string(proxy)) {
			continue
		}
		n := newNode(t, proxy)
		if proxy != record.None {
			cluster.ForwardAPI(n.t, ns, n.network.Node())
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

// program lets all proxies program the Services, and returns the nodes where connections to all of them are answered.
func (c *comparison) program(services int) (ready []*node) {
	c.t.Helper()
	var targets []order
	for _, g := range groups(len(c.population.services) > 1) {
		if g.name != stream {
			targets = append(targets, order{UDP: g.udp, Targets: c.population.frontends(g)})
		}
	}
	begun := time.Now()
	for _, n := range c.nodes {
		if n.proxy != record.None {
			n.startProxy(c.kubeconfig)
		}
	}
	for _, n := range c.nodes {
		if n.proxy == record.None {
			ready = append(ready, n)
			continue
		}
		took, ok := n.awaitProxy(begun, targets)
		c.t.Logf("%s, %d Services: programmed: %t, after %v", n.proxy, services, ok, took.Round(time.Millisecond))
		if ok {
			c.checkOthers(n)
			ready = append(ready, n)
		} else {
			c.note("%s at %d Services is not measured: it had not programmed them after %v.", n.proxy, services, *patience)
		}
	}
	return ready
}

// checkOthers checks that the proxy has programmed the Services to which no client connects. It sends a SYN to the first and to the last
// Service, which must be translated to an endpoint; the endpoints do not exist.
func (c *comparison) checkOthers(n *node) {
	c.t.Helper()
	for _, i := range []int{0, c.population.others - 1} {
		if i >= c.population.others || i < 0 {
			continue
		}
		to := netip.AddrPortFrom(netip.MustParseAddr(otherAddr(i)), 80)
		ctx, cancel := context.WithTimeout(c.t.Context(), 900*time.Millisecond) // before the SYN is sent again
		if conn, err := n.places[fromPod].Dial(ctx, "tcp", "", to.String()); err == nil {
			conn.Close()
		}
		cancel()
		translated := 0
		check(c.t, n.flows.List(conntrack.Filter{Family: nft.IPv4, Protocol: nft.TCP, Destination: to}, func(f conntrack.Flow) {
			if f.Translated() {
				translated++
			}
		}))
		if translated == 0 {
			c.t.Fatalf("%s has not programmed %s, %s", n.proxy, otherName(i), to)
		}
	}
}

func (c *comparison) note(format string, args ...any) {
	c.record.Note = strings.TrimSpace(c.record.Note + " " + fmt.Sprintf(format, args...))
}

// measure makes rounds of connections through the nodes, one after the other, in an order that changes with each round.
func (c *comparison) measure(trial trial, services int, nodes []*node) {
	c.t.Helper()
	for round := range *rounds + 1 { // the first one warms the caches
		for i := range nodes {
			n := nodes[(round+i)%len(nodes)]
			o := order{UDP: trial.udp, Connections: *connections, Targets: c.population.frontends(trial.group)}
			if n.proxy == record.None {
				o.Targets = c.population.direct(trial.group)
			}
			n.forget()
			r := n.connect(trial.from, o)
			if r.Error != "" || r.Made != *connections {
				c.t.Fatalf("%s, %d Services, %s from %s: %d connections: %s", n.proxy, services, trial.name, trial.from, r.Made, r.Error)
			}
			if flows, least := n.forget(), *connections*99/100; flows < uint32(least) { // an entry that is closed can be reused
				c.t.Fatalf("%s, %d Services, %s from %s: the node tracks %d connections, want %d", n.proxy, services, trial.name, trial.from, flows, least)
			}
			if round == 0 {
				continue
			}
			c.record.At(trial.measurement(rateExperiment, n.proxy, services, record.PerSecond)).Add(float64(r.Made) / r.Seconds)
			c.record.At(trial.measurement(cpuExperiment, n.proxy, services, record.CPUSeconds)).Add(r.CPU / float64(r.Made))
			c.record.At(trial.measurement(medianExperiment, n.proxy, services, record.Seconds)).Add(r.P50.Seconds())
			c.record.At(trial.measurement(tailExperiment, n.proxy, services, record.Seconds)).Add(r.P99.Seconds())
		}
	}
}
