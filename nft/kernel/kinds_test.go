package kernel

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables/expr"

	"nfproxy/nft"
)

// rulesOfAllKinds has a rule for every kind of match, action, verdict and field.
func rulesOfAllKinds() []nft.Rule {
	frontend := []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.DestinationPort}}
	slot := append(slices.Clone(frontend), nft.Field{Kind: nft.RandomNumber, Mod: 3})
	match := func(m ...nft.Match) []nft.Match { return m }
	return []nft.Rule{
		{Do: nft.Verdict{Kind: nft.Accept}},
		{Do: nft.Verdict{Kind: nft.Drop}},
		{Do: nft.Verdict{Kind: nft.Return}},
		{Do: nft.Verdict{Kind: nft.Jump, Chain: "there"}},
		{Do: nft.GotoChain("there")},
		{Do: nft.VerdictMap{Key: frontend, Map: "verdicts"}},
		{Do: nft.VerdictMap{Key: []nft.Field{{Kind: nft.PacketDirection}}, Map: "verdicts"}},
		{Do: nft.DNAT{Key: slot, Map: "slots"}},
		{Do: nft.DNAT{Key: append(slices.Clone(frontend), nft.Field{Kind: nft.ClientHash, Mod: 251}), Map: "slots"}},
		{Do: nft.DNAT{Key: append(slices.Clone(frontend), nft.Field{Kind: nft.ConnectionHash, Mod: 251}), Map: "slots"}},
		{Do: nft.DNAT{Key: []nft.Field{{Kind: nft.SourceAddr}}, Map: "clients"}},
		{Do: nft.Update{Key: []nft.Field{{Kind: nft.SourceAddr}}, Map: "clients", Timeout: 3 * time.Hour, Then: nft.GotoChain("other"),
			Data: []nft.Field{{Kind: nft.DestinationAddr}, {Kind: nft.DestinationPort}}}},
		{Match: match(nft.CounterStatement{Counter: nft.Counter{Packets: 3, Bytes: 180}}), Do: nft.GotoChain("there")},
		{Do: nft.Reject{}},
		{Match: match(nft.OfProtocol{Protocol: nft.TCP}), Do: nft.Reject{TCPReset: true}},
		{Match: match(nft.CtStatusDNAT{}), Do: nft.Masquerade{}},
		{Match: match(nft.In{Key: []nft.Field{{Kind: nft.SourceAddr}}, Set: "addrs"}), Do: nft.Masquerade{}},
		{Match: match(nft.In{Key: []nft.Field{{Kind: nft.OriginalDestinationAddr}}, Set: "addrs", Not: true},
			nft.OfProtocol{Protocol: nft.UDP}), Do: nft.GotoChain("there")},
		{Match: match(nft.FibSourceLocal{}), Do: nft.Masquerade{}},
		{Match: match(nft.FibDestinationLocal{}), Do: nft.Verdict{Kind: nft.Drop}},
		{Match: match(nft.In{Key: []nft.Field{{Kind: nft.DestinationAddr}}, Set: "addrs"}, nft.FibDestinationLocal{Not: true}), Do: nft.GotoChain("there")},
		{Match: match(nft.In{Key: []nft.Field{{Kind: nft.DestinationAddr}}, Set: "addrs"}, nft.EchoRequest{}), Do: nft.Redirect{}},
		{Match: match(nft.OverLimit{Key: append([]nft.Field{{Kind: nft.SourceAddr}}, frontend...), Set: "limited", Timeout: 5 * time.Second}), Do: nft.VerdictMap{Key: frontend, Map: "verdicts"}},
		{Match: match(nft.InputInterface{Name: "cni0"}), Do: nft.Masquerade{}},
		{Match: match(nft.InputInterface{Name: "c", Prefix: true}), Do: nft.Masquerade{}},
		{Match: match(nft.InputInterface{Name: "veth", Prefix: true, Not: true}), Do: nft.Masquerade{}},
		{Match: match(nft.OfProtocol{Protocol: nft.TCP}), Do: nft.VerdictMap{Map: "verdicts",
			Key: []nft.Field{{Kind: nft.OriginalDestinationAddr}, {Kind: nft.L4Protocol}, {Kind: nft.OriginalDestinationPort}}}},
		{Match: match(nft.In{Key: []nft.Field{{Kind: nft.SourceAddr}, {Kind: nft.DestinationAddr}}, Set: "pairs"}),
			Do: nft.Verdict{Kind: nft.Drop}},
	}
}

// TestEveryKind: each kind of match, action, verdict and field that package nft declares can be printed, simulated and
// encoded, and decoding its encoding gives the same rule. A kind without a rule above fails the test.
func TestEveryKind(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, r := range rulesOfAllKinds() {
			addKinds(seen, reflect.ValueOf(r))
			if text := r.Text(f); strings.Contains(text, "no text") {
				t.Errorf("%+v prints %q", r, text)
			}
			if result := simulated(f, r); strings.Contains(result, "cannot be simulated") || result == "" {
				t.Errorf("%s: simulated with result %q", r.Text(f), result)
			}
			data, err := marshalRule(f, r)
			if err != nil {
				t.Errorf("%s: %v", r.Text(f), err)
				continue
			}
			if diff := cmp.Diff(r, decodeRule(f, decodeExprs(f, data))); diff != "" {
				t.Errorf("%s, encoded and decoded (-want +got):\n%s", r.Text(f), diff)
			}
		}
	}
	for _, kind := range declaredKinds(t) {
		if !seen[kind] && kind != "Opaque" { // can only be printed
			t.Errorf("no rule above has a %s", kind)
		}
	}
}

// simulated returns the result of the rule alone, for a packet for which every match above holds.
func simulated(f nft.Family, r nft.Rule) string {
	id := nft.TableID{Family: f, Name: "t"}
	addr, other := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	if f == nft.IPv6 {
		addr, other = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	}
	to := nft.Addr(other) + nft.Port(8080)
	table := &nft.Table{TableID: id, Sets: []*nft.Set{
		{Name: "addrs", Key: []nft.Type{f.AddrType()}, Elements: []nft.Element{{Key: nft.Addr(addr)}}},
		{Name: "pairs", Key: []nft.Type{f.AddrType(), f.AddrType()},
			Elements: []nft.Element{{Key: nft.Addr(addr) + nft.Addr(addr)}, {Key: nft.Addr(addr) + nft.Addr(other)}}},
		{Name: "verdicts", Data: []nft.Type{nft.VerdictType}},
		{Name: "slots", Data: []nft.Type{f.AddrType(), nft.InetService}, Elements: []nft.Element{
			{Key: nft.Addr(addr) + nft.Proto(nft.TCP) + nft.Port(80) + nft.Slot(0), Data: to}}},
		{Name: "clients", Data: []nft.Type{f.AddrType(), nft.InetService}, Elements: []nft.Element{{Key: nft.Addr(addr), Data: to}}},
		{Name: "entry", Key: []nft.Type{f.AddrType()}},
	}}
	at := nft.Chain{Table: id, Name: "c", Hook: nft.Prerouting, Rules: []nft.Rule{r}}
	translate := nft.Chain{Table: id, Name: "first", Hook: nft.Prerouting, Priority: -1}
	protocol, hook, iif, local := nft.TCP, nft.Prerouting, "", false
	for _, m := range r.Match {
		switch m := m.(type) {
		case nft.CtStatusDNAT: // the translated packet passes no other chain at this hook
			at.Hook = nft.Postrouting
			translate.Rules = []nft.Rule{{Do: nft.DNAT{Map: "slots", Key: []nft.Field{{Kind: nft.DestinationAddr},
				{Kind: nft.L4Protocol}, {Kind: nft.DestinationPort}, {Kind: nft.RandomNumber, Mod: 1}}}}}
		case nft.InputInterface:
			if iif = m.Name; m.Not {
				iif = "other"
			}
		case nft.FibSourceLocal:
			at.Hook, hook = nft.Output, nft.Output
		case nft.FibDestinationLocal:
			local = !m.Not
		case nft.EchoRequest:
			protocol = f.ICMP()
		case nft.OfProtocol:
			protocol = m.Protocol
		case nft.In:
			if m.Not {
				table.Set(m.Set).Elements = nil
			}
		}
	}
	table.Chains = []*nft.Chain{&translate, &at, {Table: id, Name: "there"}}
	p := nft.Simulate(table, nft.Packet{OverLimit: true, Hook: hook, Interface: iif, Protocol: protocol, Local: func(netip.Addr) bool { return local },
		Source: netip.AddrPortFrom(addr, 1), Destination: netip.AddrPortFrom(addr, 80)})
	for _, s := range p.Steps {
		if s.Chain == "c" {
			return s.Result
		}
	}
	return ""
}

// addKinds adds the names of the kinds in a value: types, and constants by their type and number.
func addKinds(seen map[string]bool, v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		addKinds(seen, v.Elem())
	case reflect.Slice:
		for i := range v.Len() {
			addKinds(seen, v.Index(i))
		}
	case reflect.Struct:
		seen[v.Type().Name()] = true
		for i := range v.NumField() {
			addKinds(seen, v.Field(i))
		}
	case reflect.Uint8:
		seen[fmt.Sprintf("%s(%d)", v.Type().Name(), v.Uint())] = true
	}
}

// declaredKinds returns the kinds in package nft's source: the types with a method match or action, and the constants of
// FieldKind and VerdictKind by number.
func declaredKinds(t *testing.T) []string {
	t.Helper()
	kinds := make(map[string]bool)
	for _, file := range []string{"../rule.go", "../value.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv != nil && (d.Name.Name == "match" || d.Name.Name == "action") {
					kinds[d.Recv.List[0].Type.(*ast.Ident).Name] = true
				}
			case *ast.GenDecl:
				addConstants(kinds, d)
			}
		}
	}
	if len(kinds) < 15 {
		t.Fatalf("found only %v: has the source been moved?", kinds)
	}
	return slices.Sorted(maps.Keys(kinds))
}

func addConstants(kinds map[string]bool, d *ast.GenDecl) {
	if d.Tok != token.CONST {
		return
	}
	name := ""
	for i, s := range d.Specs {
		spec := s.(*ast.ValueSpec)
		if id, ok := spec.Type.(*ast.Ident); ok {
			name = id.Name
		}
		if name == "FieldKind" || name == "VerdictKind" {
			kinds[fmt.Sprintf("%s(%d)", name, i+1)] = true
		}
	}
}

// TestForeignRules: a rule that nfproxy would not have written is opaque. It is not taken for a rule of nfproxy.
func TestForeignRules(t *testing.T) {
	ours, err := encodeRule(nft.IPv4, rulesOfAllKinds()[6])
	if err != nil {
		t.Fatal(err)
	}
	for name, exprs := range map[string][]expr.Any{
		"nothing":             nil,
		"unknown expression":  {unknownExpr{name: "tunnel"}, &expr.Verdict{Kind: expr.VerdictDrop}},
		"another protocol":    {&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, &expr.Cmp{Register: 1, Data: []byte{6}}, &expr.Verdict{Kind: expr.VerdictDrop}},
		"more after the end":  append(slices.Clone(ours), &expr.Verdict{Kind: expr.VerdictDrop}),
		"another register":    {&expr.Payload{DestRegister: 9, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}, &expr.Lookup{SourceRegister: 1, SetName: "addrs"}, &expr.Masq{FullyRandom: true}},
		"masquerade, no flag": {&expr.Masq{}},
		"another reject":      {&expr.Reject{Type: 0, Code: 1}},
	} {
		r := decodeRule(nft.IPv4, exprs)
		if _, ok := r.Do.(nft.Opaque); !ok {
			t.Errorf("%s: decoded as %s", name, r.Text(nft.IPv4))
		}
		if _, err := marshalRule(nft.IPv4, r); err == nil {
			t.Errorf("%s: can be written", name)
		}
	}
}

// TestForeignDetails: a rule of nfproxy with any detail changed, which another program may have written in its place, is not
// taken for the rule of nfproxy.
func TestForeignDetails(t *testing.T) {
	changed := 0
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		for _, r := range rulesOfAllKinds() {
			ours, err := marshalRule(f, r)
			if err != nil {
				t.Fatal(err)
			}
			exprs := decodeExprs(f, ours)
			for i := range exprs {
				v := reflect.ValueOf(exprs[i]).Elem()
				for n := range v.NumField() {
					undo := changeDetail(v.Field(n))
					data, err := marshalExprs(f.Number(), exprs)
					undo()
					if err != nil || bytes.Equal(data, ours) {
						continue
					}
					changed++
					if got := decodeRule(f, decodeExprs(f, data)).Text(f); got == r.Text(f) {
						t.Errorf("%s with another %T.%s is taken for the same rule", got, exprs[i], v.Type().Field(n).Name)
					}
				}
			}
		}
	}
	if changed < 300 {
		t.Errorf("only %d details were changed", changed)
	}
}

// changeDetail changes a field of an expression. The function that it returns restores the field.
func changeDetail(v reflect.Value) (undo func()) {
	before := reflect.New(v.Type()).Elem()
	before.Set(v)
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(v.Uint() + 1)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + int64(time.Second))
	case reflect.String:
		if v.Len() > 0 { // the kernel returns no chain for a verdict that needs none
			v.SetString(v.String() + "x")
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 && v.Len() > 0 {
			b := slices.Clone(v.Bytes())
			b[0] ^= 1
			v.SetBytes(b)
		}
	}
	return func() { v.Set(before) }
}

// TestImmediateNumber: an expression that loads the number 0 into a register is not taken for the verdict drop.
func TestImmediateNumber(t *testing.T) {
	data, err := marshalExprs(nft.IPv4.Number(), []expr.Any{&expr.Immediate{Register: 1, Data: []byte{0, 0, 0, 0}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := decodeRule(nft.IPv4, decodeExprs(nft.IPv4, data)).Text(nft.IPv4); got == "drop" {
		t.Errorf("decoded as %s", got)
	}
}
