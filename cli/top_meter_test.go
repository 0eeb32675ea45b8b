package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/render"
	"nfproxy/report"
)

// frontend returns a frontend that counted this many connections and dropped this many of them.
func frontend(addr string, kind render.Kind, action string, connections, dropped uint64) report.Frontend {
	return report.Frontend{Address: netip.MustParseAddr(addr), Port: 80, Kind: kind, Action: action,
		Connections: &connections, Dropped: &dropped}
}

func port(name string, frontends ...report.Frontend) report.ServicePort {
	return report.ServicePort{Namespace: "default", Name: name, Port: "http", Protocol: "TCP", Frontends: frontends}
}

// endpoints returns the frontend with endpoints that counted these connections; local ones serve connections from outside.
func endpoints(f report.Frontend, local bool, counts ...uint64) report.Frontend {
	var all []report.Endpoint
	for i := range counts {
		all = append(all, report.Endpoint{Address: netip.AddrFrom4([4]byte{10, 244, 0, byte(i)}), Port: 8080, Connections: &counts[i]})
	}
	if local {
		f.LocalEndpoints = &all
	} else {
		f.Endpoints = all
	}
	return f
}

// TestMeter: rates are the increase between readings, while counters are added, removed, reset or missed once.
func TestMeter(t *testing.T) {
	const clusterIP, nodePort = render.ClusterIP, render.NodePort
	steps := []struct {
		what     string
		seconds  int
		services []report.ServicePort
		want     string
	}{
		{"the first reading has no rates", 0, []report.ServicePort{
			port("a", frontend("10.96.0.1", clusterIP, "balance", 10, 0)), port("b", frontend("10.96.0.2", clusterIP, "balance", 20, 0))},
			"default/b:http ClusterIP - - - 20; default/a:http ClusterIP - - - 10"},
		{"the busiest is first; frontends are added up", 2, []report.ServicePort{
			port("a", frontend("10.96.0.1", clusterIP, "balance", 30, 0), frontend("192.0.2.1", nodePort, "balance", 6, 2)),
			port("b", frontend("10.96.0.2", clusterIP, "balance", 21, 0))},
			"default/a:http ClusterIP,NodePort 12.0 0.0 1.0 36; default/b:http ClusterIP 0.5 0.0 0.0 21"},
		{"one Service is removed, one is added, one refuses from now on", 1, []report.ServicePort{
			port("b", frontend("10.96.0.2", clusterIP, "refuse", 3, 0)), port("c", frontend("10.96.0.3", clusterIP, "balance", 5, 0))},
			"default/c:http ClusterIP 5.0 0.0 0.0 5; default/b:http ClusterIP 0.0 3.0 0.0 3"},
		{"a counter missed once is not new; a counter reset counts from 0", 1, []report.ServicePort{
			port("a", frontend("10.96.0.1", clusterIP, "balance", 31, 0), frontend("192.0.2.1", nodePort, "balance", 6, 2)),
			port("c", frontend("10.96.0.3", clusterIP, "balance", 2, 0))},
			"default/c:http ClusterIP 2.0 0.0 0.0 2; default/a:http ClusterIP,NodePort 1.0 0.0 0.0 37"},
		{"the parts of a counter are not read at the same moment", 1, []report.ServicePort{
			port("a", frontend("10.96.0.1", clusterIP, "balance", 31, 0), frontend("192.0.2.1", nodePort, "balance", 6, 1))},
			"default/a:http ClusterIP,NodePort 1.0 0.0 0.0 37"},
	}
	m := &meter{}
	at := time.Unix(1000, 0)
	for _, s := range steps {
		at = at.Add(time.Duration(s.seconds) * time.Second)
		if got := rowsText(m.rows(report.Description{Services: s.services}, at), false); got != s.want {
			t.Errorf("%s:\n%s\nwant:\n%s", s.what, got, s.want)
		}
	}
}

// TestMeterForgets: a counter missed for long is new when it returns.
func TestMeterForgets(t *testing.T) {
	m := &meter{}
	at := time.Unix(1000, 0)
	present := report.Description{Services: []report.ServicePort{port("a", frontend("10.96.0.1", render.ClusterIP, "balance", 10, 0))}}
	m.rows(present, at)
	for range maxMissed + 1 {
		at = at.Add(time.Second)
		m.rows(report.Description{}, at)
	}
	if got, want := rowsText(m.rows(present, at.Add(time.Second)), false), "default/a:http ClusterIP 10.0 0.0 0.0 10"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestMeterByEndpoint: an endpoint has one row for all its frontends and clients.
func TestMeterByEndpoint(t *testing.T) {
	m := &meter{byEndpoint: true}
	reading := func(first, second, outside uint64) report.Description {
		f := endpoints(frontend("192.0.2.1", render.NodePort, "balance", 0, 0), false, first, second)
		return report.Description{Services: []report.ServicePort{port("a", endpoints(f, true, outside))}}
	}
	at := time.Unix(1000, 0)
	m.rows(reading(1, 2, 3), at)
	got := rowsText(m.rows(reading(2, 6, 4), at.Add(time.Second)), true)
	want := "default/a:http 10.244.0.1:8080 NodePort 4.0 6; default/a:http 10.244.0.0:8080 NodePort 2.0 6"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// rowsText returns the table without its heading, in one line.
func rowsText(rows []topRow, byEndpoint bool) string {
	var b strings.Builder
	if err := topTable(&b, rows, byEndpoint); err != nil {
		return fmt.Sprint(err)
	}
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(b.String()), "\n")[1:] {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "; ")
}
