package render_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/watcher"
)

var update = flag.Bool("update", false, "rewrite the expected output of the scenarios; review the diff before committing it")

// TestScenarios: each file in testdata contains manifests, the rulesets that they result in and the outcome for packets. The section
// "node" contains the facts of the Node, "packets" one line per packet: source, hook and destination.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata contains no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { testScenario(t, file) })
	}
}

// testScenario tests one scenario, or rewrites it with -update.
func testScenario(t *testing.T, file string) {
	scenario, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	node := scenarioNode(t, section(scenario, "node"))
	u := scenarioUpdate(t, scenario, node)
	tables := build(t, u)
	got := map[string]string{"ip.nft": tables[0].String(), "ip6.nft": tables[1].String(), "packets": packets(t, tables, section(scenario, "packets"))}
	for i := range 5 {
		shuffled := build(t, shuffle(u, uint64(i)))
		if diff := cmp.Diff(tables[0].String()+tables[1].String(), shuffled[0].String()+shuffled[1].String()); diff != "" {
			t.Errorf("another order of the input results in other tables:\n%s", diff)
		}
	}
	if *update {
		for i, f := range scenario.Files {
			if text, ok := got[f.Name]; ok {
				scenario.Files[i].Data = []byte(text)
			}
		}
		if err := os.WriteFile(file, txtar.Format(scenario), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, f := range scenario.Files { // a scenario may omit some of the sections, but not all
		if text, ok := got[f.Name]; ok {
			if diff := cmp.Diff(string(f.Data), text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", f.Name, diff)
			}
			delete(got, f.Name)
		}
	}
	if len(got) == 3 {
		t.Error("the scenario expects nothing")
	}
}

// build returns the tables of an update and checks that all their references are valid.
func build(t *testing.T, u render.Update) []*nft.Table {
	t.Helper()
	tables := render.Tables(u)
	for _, table := range tables {
		if err := table.Validate(); err != nil {
			t.Error(err)
		}
	}
	return tables
}

// shuffle shuffles all slices whose order has no meaning.
func shuffle(u render.Update, seed uint64) render.Update {
	r := rand.New(rand.NewPCG(seed, seed))
	u.Services = slices.Clone(u.Services)
	r.Shuffle(len(u.Services), swap(u.Services))
	for i := range u.Services {
		s := &u.Services[i]
		s.Ports, s.ClusterIPs = slices.Clone(s.Ports), slices.Clone(s.ClusterIPs)
		r.Shuffle(len(s.Ports), swap(s.Ports))
		r.Shuffle(len(s.ClusterIPs), swap(s.ClusterIPs))
		for j := range s.Ports {
			p := &s.Ports[j]
			p.Endpoints = slices.Clone(p.Endpoints)
			r.Shuffle(len(p.Endpoints), swap(p.Endpoints))
		}
	}
	return u
}

func swap[T any](s []T) func(i, j int) {
	return func(i, j int) { s[i], s[j] = s[j], s[i] }
}

// packets appends the outcome of the packet to each line "SOURCE HOOK DESTINATION:PORT/PROTOCOL".
func packets(t *testing.T, tables []*nft.Table, lines string) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(lines) {
		question, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " => ")
		if strings.HasPrefix(question, "#") || question == "" {
			fmt.Fprintln(&b, question)
			continue
		}
		fmt.Fprintf(&b, "%s => %s\n", question, answer(t, tables, question))
	}
	return b.String()
}

// answer returns the outcomes of a packet, one for each end that it can reach.
func answer(t *testing.T, tables []*nft.Table, question string) string {
	t.Helper()
	var from, hook, to string
	if _, err := fmt.Sscan(question, &from, &hook, &to); err != nil {
		t.Fatalf("%q: %v", question, err)
	}
	to, protocol, _ := strings.Cut(to, "/")
	proto, err := nft.ParseProtocol(protocol)
	if err != nil {
		t.Fatalf("%q: %v", question, err)
	}
	p := nft.Packet{Hook: map[string]nft.Hook{"arrives": nft.Prerouting, "leaves": nft.Output}[hook], Protocol: proto,
		Source: netip.AddrPortFrom(netip.MustParseAddr(from), 40000), Destination: netip.MustParseAddrPort(to)}
	table := tables[0]
	if p.Destination.Addr().Is6() {
		table = tables[1]
	}
	var outcomes []string
	for _, end := range nft.SimulateAll(table, p, 1<<16).Ends {
		outcomes = append(outcomes, outcome(end.Path))
	}
	return strings.Join(outcomes, " | ")
}

func outcome(p nft.Path) string {
	if p.Outcome != nft.Accepted {
		return p.Outcome.String()
	}
	text := p.Destination.String()
	if p.Masqueraded {
		text += " masqueraded"
	}
	return text
}

func section(a *txtar.Archive, name string) string {
	for _, f := range a.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

// scenarioNode parses lines such as "cluster-cidr 10.244.0.0/16".
func scenarioNode(t *testing.T, text string) (n render.Node) {
	t.Helper()
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "name":
			n.Name = value
		case "cluster-cidr":
			n.ClusterCIDRs = append(n.ClusterCIDRs, netip.MustParsePrefix(value))
		case "service-cidr":
			n.ServiceCIDRs = append(n.ServiceCIDRs, netip.MustParsePrefix(value))
		default:
			t.Fatalf("node: %q", line)
		}
	}
	return n
}

// scenarioUpdate reads the manifests of a scenario as nfproxy run does.
func scenarioUpdate(t *testing.T, a *txtar.Archive, n render.Node) render.Update {
	t.Helper()
	dir := t.TempDir()
	for _, f := range a.Files {
		if strings.HasSuffix(f.Name, ".yaml") {
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	var log bytes.Buffer
	d, err := watcher.NewDir(dir, n, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	u, err := d.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if log.Len() > 0 {
		t.Logf("the watcher logged:\n%s", &log)
	}
	return u
}
