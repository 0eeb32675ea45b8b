package main

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"nfproxy/render"
)

// TestReload changes each setting by itself. A new one has to be put here, and then into reload.
func TestReload(t *testing.T) {
	cidrs := prefixes(t, "192.0.2.0/24")
	changes := map[string][]func(*settings){
		"manifests":  {func(s *settings) { s.manifests = "x" }},
		"kubeconfig": {func(s *settings) { s.kubeconfig = "x" }},
		"master":     {func(s *settings) { s.master = "x" }},
		"configFile": {func(s *settings) { s.configFile = "x" }},
		"node": {
			func(s *settings) { s.node.Name = "x" },
			func(s *settings) { s.node.ClusterCIDRs = cidrs },
			func(s *settings) { s.node.ServiceCIDRs = cidrs },
			func(s *settings) { s.node.NodeCIDR = true },
			func(s *settings) { s.node.PodInterface = "x" },
			func(s *settings) { s.node.MasqueradeAll = true },
			func(s *settings) { s.node.AffinityClients = 7 },
		},
		"nodePorts":           {func(s *settings) { s.nodePorts = cidrs }},
		"primaryIP":           {func(s *settings) { s.primaryIP = netip.MustParseAddr("192.0.2.1") }},
		"minSyncPeriod":       {func(s *settings) { s.minSyncPeriod = 7 }},
		"healthz":             {func(s *settings) { s.healthz = "x" }},
		"metrics":             {func(s *settings) { s.metrics = "x" }},
		"bindAddressHardFail": {func(s *settings) { s.bindAddressHardFail = true }},
		"profiling":           {func(s *settings) { s.profiling = true }},
		"conntrack":           {func(s *settings) { s.conntrack.udpTimeout = time.Second }},
		"oomScoreAdj":         {func(s *settings) { s.oomScoreAdj = nil }, func(s *settings) { s.oomScoreAdj = new(int32(7)) }},
		"logFormat":           {func(s *settings) { s.logFormat = "json" }},
	}
	live := map[string]func(*settings){
		"verbosity": func(s *settings) { s.verbosity = 7 },
	}
	for field := range reflect.TypeFor[settings]().Fields() {
		if field.Name == "effective" { // the same again, as it was written
			continue
		}
		if changes[field.Name] == nil && live[field.Name] == nil {
			t.Errorf("the test knows no change of %s", field.Name)
		}
	}
	for name, fs := range changes {
		for i, change := range fs {
			next := usual()
			change(&next)
			got, restart := reload(usual(), next)
			if len(restart) != 1 {
				t.Errorf("change %d of %s: a new start for %q", i, name, restart)
			}
			compare(t, got, usual())
		}
	}
	for name, change := range live {
		next := usual()
		change(&next)
		got, restart := reload(usual(), next)
		if restart != nil {
			t.Errorf("change of %s: a new start for %q", name, restart)
		}
		compare(t, got, next)
	}
}

// TestReloadNodeFacts: reload has all that settings say of a node. The zone, the addresses and whether there is IPv6 come
// from elsewhere.
func TestReloadNodeFacts(t *testing.T) {
	var have []string
	for field := range reflect.TypeFor[render.Node]().Fields() {
		have = append(have, field.Name)
	}
	want := []string{"Addresses", "AffinityClients", "ClusterCIDRs", "Counters", "IPv4Only", "MasqueradeAll", "Name", "NodeCIDR", "PodInterface", "ServiceCIDRs", "Zone"}
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Errorf("a node has %q, not %q: does reload compare all that is told?", have, want)
	}
}
