package config

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"nfproxy/render"
)

// TestReload changes one setting at a time: those that require a restart are named, the others are applied. A new setting
// has to be added here and to Reload.
func TestReload(t *testing.T) {
	cidrs := prefixes(t, "192.0.2.0/24")
	changes := map[string][]func(*Settings){
		"Manifests":  {func(s *Settings) { s.Manifests = "x" }},
		"Kubeconfig": {func(s *Settings) { s.Kubeconfig = "x" }},
		"Master":     {func(s *Settings) { s.Master = "x" }},
		"File":       {func(s *Settings) { s.File = "x" }},
		"Node": {
			func(s *Settings) { s.Node.Name = "x" },
			func(s *Settings) { s.Node.Instance, _ = render.NewInstance("x") },
			func(s *Settings) { s.Node.ClusterCIDRs = cidrs },
			func(s *Settings) { s.Node.ServiceCIDRs = cidrs },
			func(s *Settings) { s.Node.NodeCIDR = true },
			func(s *Settings) { s.Node.PodInterface = "x" },
			func(s *Settings) { s.Node.MasqueradeAll = true },
			func(s *Settings) { s.Node.AffinityClients = 7 },
			func(s *Settings) { s.Node.MaglevSize = 251 },
			func(s *Settings) { s.Node.UnservedPorts = render.DropUnserved },
			func(s *Settings) { s.Node.AnswerPing = true },
			func(s *Settings) { s.Node.MaxServiceElements = 7 },
			func(s *Settings) { s.Node.MaxElements = 7 },
			func(s *Settings) { s.Node.Counters = render.CountNothing },
			func(s *Settings) { s.Node.ExternalIPs.Only = true },
			func(s *Settings) { s.Node.LoadBalancerIPs = render.Allowlist{Only: true, Within: cidrs} },
			func(s *Settings) { s.Node.Loopback = []netip.Addr{netip.IPv6Loopback()} },
		},
		"NodePorts": {
			func(s *Settings) { s.NodePorts.Primary = false },
			func(s *Settings) { s.NodePorts.Localhost = true },
			func(s *Settings) { s.NodePorts.All = true },
			func(s *Settings) { s.NodePorts.CIDRs = cidrs },
		},
		"PrimaryIP":           {func(s *Settings) { s.PrimaryIP = netip.MustParseAddr("192.0.2.1") }},
		"ResetGoneEndpoints":  {func(s *Settings) { s.ResetGoneEndpoints = time.Second }},
		"MinSyncPeriod":       {func(s *Settings) { s.MinSyncPeriod = 7 }},
		"Healthz":             {func(s *Settings) { s.Healthz = "x" }},
		"Metrics":             {func(s *Settings) { s.Metrics = "x" }},
		"BindAddressHardFail": {func(s *Settings) { s.BindAddressHardFail = true }},
		"Profiling":           {func(s *Settings) { s.Profiling = true }},
		"Statusz":             {func(s *Settings) { s.Statusz = false }},
		"Flagz":               {func(s *Settings) { s.Flagz = false }},
		"Conntrack":           {func(s *Settings) { s.Conntrack.UDPTimeout = time.Second }},
		"OOMScoreAdj":         {func(s *Settings) { s.OOMScoreAdj = nil }, func(s *Settings) { s.OOMScoreAdj = new(int32(7)) }},
		"LogFormat":           {func(s *Settings) { s.LogFormat = "json" }},
	}
	live := map[string]func(*Settings){
		"Verbosity": func(s *Settings) { s.Verbosity = 7 },
	}
	for field := range reflect.TypeFor[Settings]().Fields() {
		if field.Name == "Effective" || field.Name == "Flags" { // contain the same values
			continue
		}
		if changes[field.Name] == nil && live[field.Name] == nil {
			t.Errorf("the test does not change %s", field.Name)
		}
	}
	for name, fs := range changes {
		for i, change := range fs {
			next := defaultSettings()
			change(&next)
			got, restart := Reload(defaultSettings(), next)
			if len(restart) != 1 {
				t.Errorf("change %d of %s: restart required by %q", i, name, restart)
			}
			compare(t, got, defaultSettings())
		}
	}
	for name, change := range live {
		next := defaultSettings()
		change(&next)
		got, restart := Reload(defaultSettings(), next)
		if restart != nil {
			t.Errorf("change of %s: restart required by %q", name, restart)
		}
		compare(t, got, next)
	}
}

// TestReloadNodeFacts: Reload compares all fields of render.Node that settings determine. Others add the zone, the addresses
// and IPv4Only.
func TestReloadNodeFacts(t *testing.T) {
	var have []string
	for field := range reflect.TypeFor[render.Node]().Fields() {
		have = append(have, field.Name)
	}
	want := []string{"Addresses", "AffinityClients", "AllAddresses", "AnswerPing", "ClusterCIDRs", "Counters", "ExternalIPs", "IPs", "IPv4Only", "Instance", "LoadBalancerIPs", "Loopback", "MaglevSize", "MasqueradeAll", "MaxElements", "MaxServiceElements", "Name", "NodeCIDR", "PodInterface", "ServiceCIDRs", "UnservedPorts", "Zone"}
	if slices.Sort(have); !slices.Equal(have, want) {
		t.Errorf("render.Node has the fields %q, not %q: does Reload compare all of them?", have, want)
	}
}
