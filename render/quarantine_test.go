package render

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

// TestQuarantine: a quarantined Service keeps its applied objects, others are programmed, and the next update of the Service ends the
// quarantine.
func TestQuarantine(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	good, bad := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80"), testService("s", 1, "10.96.0.1:80", "10.0.0.2:80")
	r.Update(Update{Services: []Service{good}})
	converge(r)
	r.Update(Update{Services: []Service{bad, testService("t", 1, "10.96.0.2:80")}})
	changes := r.Plan() // the kernel rejects it
	var owners []ServiceName
	for _, c := range changes {
		if strings.Contains(c.String(), "10.0.0.2") {
			owners = r.Owners(c)
		}
	}
	if len(owners) != 1 || owners[0] != bad.ServiceName {
		t.Fatalf("the change belongs to %v", owners)
	}
	if !r.Quarantine(bad.ServiceName) || r.Quarantine(bad.ServiceName) {
		t.Error("Quarantine does not return true once, then false")
	}
	reconcile(r, nil)
	text := r.Tables()[0].String()
	if !strings.Contains(text, "10.0.0.1 . 80") || strings.Contains(text, "10.0.0.2 . 80") || !strings.Contains(text, "ns/t:p") {
		t.Errorf("the tables are\n%s", text)
	}
	if !r.Quarantined(bad.ServiceName) || r.Quarantined(ServiceName{"ns", "t"}) {
		t.Error("the quarantined Service is not the expected one")
	}
	r.Release(bad.ServiceName)
	if got := changesText(converge(r)); !strings.Contains(got, "10.0.0.2 . 80") {
		t.Errorf("after the release the changes are\n%s", got)
	}
	r.Quarantine(bad.ServiceName)
	r.Update(Update{Services: []Service{good}})
	if r.Quarantined(bad.ServiceName) {
		t.Error("the Service is still quarantined after an update")
	}
}

// TestQuarantineOfRemoved: of a Service that is removed while it is quarantined nothing stays after its release.
func TestQuarantineOfRemoved(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")}})
	converge(r)
	r.Update(Update{Removed: []ServiceName{{"ns", "s"}}})
	r.Plan() // the kernel rejects it
	if !r.Quarantine(ServiceName{"ns", "s"}) {
		t.Fatal("the Service is unknown")
	}
	first := changesText(converge(r))
	r.Release(ServiceName{"ns", "s"})
	if all := first + changesText(converge(r)); !strings.Contains(all, "delete element ip nfproxy services { 10.96.0.1") || !strings.Contains(all, "delete element ip nfproxy cluster-ips { 10.96.0.1 }") {
		t.Errorf("the changes are\n%s", all)
	}
}

// TestChanging: Changing returns the Services that get new elements, those with the fewest first, and neither those that only lose
// some nor those that stay.
func TestChanging(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	shrinks := testService("shrinks", 1, "10.96.0.3:80", "10.0.0.1:80")
	shrinks.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	all := []Service{testService("stays", 1, "10.96.0.1:80", "10.0.0.1:80"), testService("goes", 1, "10.96.0.2:80", "10.0.0.1:80"),
		shrinks, testService("a-grows", 1, "10.96.0.4:80", "10.0.0.1:80")}
	r.Update(Update{Services: all})
	converge(r)
	r.Update(Update{Removed: []ServiceName{{"ns", "goes"}}, Services: []Service{all[0], testService("shrinks", 1, "10.96.0.3:80", "10.0.0.1:80"),
		testService("a-grows", 1, "10.96.0.4:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80", "10.0.0.6:80"), testService("new", 1, "10.96.0.5:80", "10.0.0.1:80")}})
	r.Plan()
	if got, want := r.Changing(), []ServiceName{{"ns", "new"}, {"ns", "a-grows"}}; !slices.Equal(got, want) {
		t.Errorf("%v change, want %v", got, want)
	}
}

// TestQuarantineGivesWay: a quarantined Service loses a frontend to a Service whose claim takes precedence.
func TestQuarantineGivesWay(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{testService("young", 2, "10.96.0.1:80", "10.0.0.1:80")}})
	converge(r)
	r.Quarantine(ServiceName{"ns", "young"})
	r.Update(Update{Services: []Service{testService("old", 1, "10.96.0.1:80", "10.0.0.9:80")}})
	converge(r)
	services := r.Tables()[0].Set("services").Elements
	if len(services) != 1 || services[0].Comment != "ns/old:p" {
		t.Errorf("the frontends are %v, want that of ns/old", services)
	}
}

// TestQuarantineAtStart: before the first Accept a quarantined Service keeps its objects in the observed tables, unless these are of
// another schema version or would make the tables invalid.
func TestQuarantineAtStart(t *testing.T) {
	s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80")
	s.Affinity = time.Hour
	for _, c := range []struct {
		name   string
		change func(*nft.Table)
		kept   bool
	}{
		{"unchanged", func(*nft.Table) {}, true},
		{"another schema version", func(t *nft.Table) { t.Comment = "nfproxy schema 0" }, false},
		{"a verdict to a chain of another program", func(t *nft.Table) {
			t.Set("services").Elements[0].Data = nft.GotoChain("theirs").Value()
		}, false},
		{"a balancing chain that cannot exist", func(t *nft.Table) {
			t.Set("services").Elements[0].Data = nft.GotoChain("lb-0").Value()
		}, false},
		{"two slots with one endpoint", func(t *nft.Table) {
			slots := t.Set("endpoints").Elements
			slots[1].Data = slots[0].Data
		}, true},
		{"a rule of another program", func(t *nft.Table) {
			t.Chain("affinity/ns/s/tcp/p").Rules[0].Do = nft.Opaque{Text: "theirs"}
		}, false},
		{"limits that no verdict leads to", func(t *nft.Table) {
			t.Sets = append(t.Sets, SchemaOf(nft.IPv4).ofLimits()...)
			t.Set("rates").Elements = []nft.Element{{Key: t.Set("services").Elements[0].Key, Data: nft.Limit{Packets: 1, Per: time.Second, Burst: 1}.Value()}}
		}, true},
		{"a limit that cannot exist", func(t *nft.Table) {
			t.Set("services").Elements[0].Data = nft.GotoChain("client-limit-0-second-5").Value()
		}, false},
		{"a map with another key", func(t *nft.Table) { t.Set("endpoints").Key = []nft.Type{nft.IPv4Addr} }, false},
	} {
		tables := Tables(Update{Services: []Service{s}})
		c.change(tables[0])
		desired := s
		desired.Ports = append(slices.Clone(s.Ports), Port{Name: "q", Protocol: nft.TCP, Port: 81})
		r := NewRuleset(Node{})
		r.Update(Update{Services: []Service{desired}})
		r.Observe(tables)
		r.Plan()
		r.Quarantine(s.ServiceName)
		r.Plan()
		r.Accept()
		text := r.Tables()[0].String()
		if kept := strings.Contains(text, "ns/s:p") && strings.Contains(text, "affinity/ns/s/tcp/p"); kept != c.kept {
			t.Errorf("%s: kept: %t, want %t:\n%s", c.name, kept, c.kept, text)
		}
		if strings.Contains(text, "ns/s:q") {
			t.Errorf("%s: the refused rules are planned:\n%s", c.name, text)
		}
	}
}

// TestQuarantineAtStartKeepsAll: before the first Accept a quarantined Service keeps all that it has in the observed tables, whatever
// chooses and limits its connections, so that the plan changes nothing of it.
func TestQuarantineAtStartKeepsAll(t *testing.T) {
	limit := nft.Limit{Packets: 10, Per: time.Second, Burst: 20}
	for name, change := range map[string]func(*Service){
		"addresses": func(s *Service) {
			s.LoadBalancerIPs, s.SourceRanges = []netip.Addr{netip.MustParseAddr("203.0.113.1")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
			s.Limits.Rate = limit
		},
		"limit":              func(s *Service) { s.Limits.Rate = limit },
		"limit of clients":   func(s *Service) { s.Limits.ClientRate = limit },
		"both limits":        func(s *Service) { s.Limits = Limits{Rate: limit, ClientRate: limit, Drop: true} },
		"limit and affinity": func(s *Service) { s.Limits.ClientRate, s.Affinity = limit, time.Hour },
		"weights":            func(s *Service) { s.Ports[0].Endpoints[1].Weight = 9 },
		"hash":               func(s *Service) { s.Hashing = HashClients },
		"weights, hash, limits, policy Local": func(s *Service) {
			s.Ports[0].Endpoints[1].Weight, s.Hashing, s.Limits, s.ExternalLocal = 9, HashConnections, Limits{Rate: limit, ClientRate: limit}, true
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
			s.Ports[0].Endpoints[0].Node = "n"
		},
	} {
		s := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")
		change(&s)
		node := Node{Name: "n", MaglevSize: 31, UnservedPorts: RefuseUnserved, AnswerPing: true}
		tables := Tables(Update{Node: node, Services: []Service{s}})
		desired := s
		desired.Ports = append(slices.Clone(s.Ports), Port{Name: "q", Protocol: nft.TCP, Port: 81})
		r := NewRuleset(node)
		r.Update(Update{Node: node, Services: []Service{desired}})
		r.Observe(tables)
		r.Plan()
		r.Quarantine(s.ServiceName)
		if changes := r.Plan(); len(changes) > 0 {
			t.Errorf("%s: the plan changes the tables: %v", name, changes)
		}
	}
}
