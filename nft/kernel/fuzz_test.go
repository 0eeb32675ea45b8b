package kernel

import (
	"io"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
	"nfproxy/render"
	"nfproxy/report"
)

// decodeTables returns the tables that the messages of a dump describe, as a reader does.
func decodeTables(dump []byte) []*nft.Table {
	var tables []*nft.Table
	tableOf := func(family uint8, name string) *nft.Table {
		for _, t := range tables {
			if t.Family.Number() == family && t.Name == name {
				return t
			}
		}
		return nil
	}
	type owned struct {
		t *nft.Table
		s *nft.Set
	}
	elements := make(map[owned][]kernelElement)
	for h, body := range nlmsg.Messages(dump) {
		if len(body) < nlmsg.NFGenLen {
			continue
		}
		family, body := body[0], body[nlmsg.NFGenLen:]
		f := nft.IPv4
		if family == nft.IPv6.Number() {
			f = nft.IPv6
		} else if family != f.Number() {
			continue
		}
		name := ""
		for kind, b := range nlmsg.Attributes(body) {
			if kind == 1 {
				name = nlmsg.CString(b)
			}
		}
		t := tableOf(family, name)
		if kind := h.Type & 0xff; kind == unix.NFT_MSG_NEWTABLE && t == nil {
			t = &nft.Table{TableID: nft.TableID{Family: f, Name: name}}
			decodeTable(t, body)
			tables = append(tables, t)
		}
		if t == nil {
			continue
		}
		switch h.Type & 0xff {
		case unix.NFT_MSG_NEWCHAIN:
			if c := decodeChain(f, body); t.Chain(c.Name) == nil {
				t.Chains = append(t.Chains, c)
			}
		case unix.NFT_MSG_NEWRULE:
			for kind, b := range nlmsg.Attributes(body) {
				if kind == unix.NFTA_RULE_EXPRESSIONS && len(t.Chains) > 0 {
					c := t.Chains[len(t.Chains)-1]
					c.Rules = append(c.Rules, decodeRule(f, decodeExprs(f, b)))
				}
			}
		case unix.NFT_MSG_NEWSET:
			if s := decodeSet(f, body); t.Set(s.Name) == nil {
				t.Sets = append(t.Sets, s)
			}
		case unix.NFT_MSG_NEWSETELEM:
			for kind, b := range nlmsg.Attributes(body) {
				if s := t.Set(nlmsg.CString(b)); kind == unix.NFTA_SET_ELEM_LIST_SET && s != nil && readable(s) {
					elements[owned{t, s}] = slices.AppendSeq(elements[owned{t, s}], listed(s, body))
				}
			}
		}
	}
	for of, all := range elements {
		if of.s.Interval {
			fill(of.s, joinIntervals(of.s, all))
			continue
		}
		list := make([]nft.Element, len(all))
		for i, e := range all {
			list[i] = e.Element
		}
		fill(of.s, list)
	}
	return tables
}

// FuzzDump: tables of any content, which another program may have made under the names of nfproxy's tables, are decoded in
// memory proportional to the dump; what is decoded and encoded again is decoded as the same; they can be printed, described
// and explained; and a Ruleset finds changes that can be sent and that lead to the desired tables.
//
// The seeds are dumps of Linux 6.18: of nfproxy's tables, and of the same tables after changes by nft.
func FuzzDump(f *testing.F) {
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, dump []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		tables := decodeTables(dump)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20+500*uint64(len(dump)) {
			t.Errorf("decoding %d bytes took %d bytes of memory", len(dump), took)
		}
		for _, table := range tables {
			checkDecoded(t, table)
		}
		ours := tablesOf(tables)
		checkReports(t, ours)
		checkRepair(t, ours)
	})
}

// FuzzElement: an element of any content in a set of any declaration is decoded; and encoded again, it is decoded as the same.
func FuzzElement(f *testing.F) {
	sets := setsOfAllKinds()
	for i, s := range sets {
		for _, e := range s.Elements {
			var m nlmsg.Message
			addElement(&m, s, e, false)
			f.Add(uint8(i), m.Buf)
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, list []byte) {
		s := *sets[int(i)%len(sets)]
		var all []kernelElement
		for _, b := range nlmsg.Attributes(list) {
			all = append(all, decodeElement(&s, b))
		}
		if s.Interval {
			fill(&s, joinIntervals(&s, all))
		} else {
			s.Elements = nil
			for _, e := range all {
				s.Elements = append(s.Elements, e.Element)
			}
		}
		for _, e := range s.Elements {
			_ = nft.Change{Op: nft.Add, Object: nft.Elements{Set: &s, List: []nft.Element{e}}}.String()
		}
		checkElements(t, &s)
		var m nlmsg.Message
		for _, e := range s.Elements { // as for a deletion
			addElement(&m, &s, e, true)
		}
		_, _ = s.Lookup(nft.Value(list))
	})
}

// tablesOf returns those of the tables that have the names of nfproxy's.
func tablesOf(tables []*nft.Table) []*nft.Table {
	return slices.DeleteFunc(slices.Clone(tables), func(t *nft.Table) bool { return !slices.Contains(render.Instance{}.TableIDs(), t.TableID) })
}

// checkDecoded fails the test unless the rules and elements of a table, encoded and decoded, are the same.
func checkDecoded(t *testing.T, table *nft.Table) {
	t.Helper()
	_ = table.String()
	_ = table.Validate()
	for _, c := range table.Chains {
		for _, r := range c.Rules {
			if _, ok := r.Do.(nft.Opaque); ok {
				continue
			}
			data, err := marshalRule(table.Family, r)
			if err != nil {
				t.Fatalf("%s cannot be encoded: %v", r.Text(table.Family), err)
			}
			if again := decodeRule(table.Family, decodeExprs(table.Family, data)); again.Text(table.Family) != r.Text(table.Family) {
				t.Errorf("%s, encoded and decoded, is %s", r.Text(table.Family), again.Text(table.Family))
			}
		}
	}
	for _, s := range table.Sets {
		if readable(s) {
			checkElements(t, s)
		}
	}
}

// checkElements fails the test unless each element of a set that nfproxy could have written, encoded and decoded, is the
// same.
func checkElements(t *testing.T, s *nft.Set) {
	t.Helper()
	for _, e := range s.Elements {
		if len(e.Comment) > 250 || (s.Data == nil) != (e.Data == "") {
			continue // the kernel stores a comment's length in a byte, and gives data to the elements of maps alone
		}
		if s.IsVerdictMap() {
			if _, err := verdictCode(e.Data.Verdict().Kind); err != nil {
				continue
			}
		}
		var m nlmsg.Message
		addElement(&m, s, e, false)
		var all []kernelElement
		for _, b := range nlmsg.Attributes(m.Buf) {
			all = append(all, decodeElement(s, b))
		}
		again := all[0].Element
		if s.Interval {
			if joined := joinIntervals(s, all); len(joined) == 1 {
				again = joined[0]
			}
		}
		if again.Key != e.Key || again.Data != e.Data || again.Comment != e.Comment {
			t.Errorf("set %v: %+v, encoded and decoded, is %+v", s.Key, e, again)
		}
	}
}

// checkReports fails the test if the tables cannot be reported.
func checkReports(t *testing.T, tables []*nft.Table) {
	t.Helper()
	d := report.Describe(tables)
	_ = report.NotServing(d)
	for _, write := range []func(io.Writer, report.Description) error{report.WriteJSON, report.WriteTable, report.WriteWide} {
		if err := write(io.Discard, d); err != nil {
			t.Error(err)
		}
	}
	desired := fuzzedUpdate()
	_ = report.Compare(desired, tables)
	for _, to := range []string{"10.96.0.8:80", "[fd00:10:96::1]:80"} {
		p := nft.Packet{Hook: nft.Prerouting, Protocol: nft.TCP, Source: netip.MustParseAddrPort("10.244.1.9:1000"),
			Destination: netip.MustParseAddrPort(to)}
		if err := report.WriteExplanation(io.Discard, report.Explain(tables, report.Query{Packet: p, Desired: &desired})); err != nil {
			t.Error(err)
		}
	}
}

// checkRepair fails the test unless a Ruleset that has read the tables plans changes that can be encoded, and afterwards
// holds the desired tables.
func checkRepair(t *testing.T, tables []*nft.Table) {
	t.Helper()
	u := fuzzedUpdate()
	r := render.NewRuleset(u.Node)
	r.Update(u)
	r.Observe(tables)
	changes := r.Plan()
	b := &batch{first: 1}
	for i, ch := range changes {
		_, _ = ch.String(), ch.Summary()
		if e, ok := ch.Object.(nft.Elements); ok {
			for _, el := range e.List {
				_ = render.CounterKey(e.Set, el)
			}
		}
		_ = r.Owners(ch)
		if _, dynamic := ch.Object.(nft.DynamicElements); dynamic {
			continue // listed again before they are deleted
		}
		if err := b.change(i, ch); err != nil {
			t.Fatal(err)
		}
	}
	for i := range b.origins {
		_ = b.explain([]refusal{{seq: b.first + uint32(i) + 1, errno: syscall.ENOENT, offset: 40 * i}}, changes)
	}
	r.Accept()
	if diff := cmp.Diff(text(render.Tables(u)), text(r.Tables())); diff != "" {
		t.Errorf("the repaired tables (-want +got):\n%s", diff)
	}
}

func text(tables []*nft.Table) string {
	all := ""
	for _, t := range tables {
		all += t.String()
	}
	return all
}

// fuzzedUpdate returns the desired state that corresponds to the seeds of FuzzDump.
func fuzzedUpdate() render.Update {
	n := render.Node{Name: "node-a", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	service := func(name, at string, affinity time.Duration, endpoints ...string) render.Service {
		frontend := netip.MustParseAddrPort(at)
		p := render.Port{Name: "main", Protocol: nft.TCP, Port: frontend.Port()}
		for _, e := range endpoints {
			p.Endpoints = append(p.Endpoints, render.Endpoint{AddrPort: netip.MustParseAddrPort(e), Ready: true, Serving: true})
		}
		return render.Service{ServiceName: render.ServiceName{Namespace: "test", Name: name}, Affinity: affinity,
			ClusterIPs: []netip.Addr{frontend.Addr()}, Ports: []render.Port{p}}
	}
	return render.Update{Node: n, Services: []render.Service{
		service("sticky", "10.96.0.8:80", time.Hour, "10.244.1.2:8080"),
		service("web", "[fd00:10:96::1]:80", 0, "[fd00:10:244:1::2]:8080", "[fd00:10:244:1::3]:8080"),
	}}
}
