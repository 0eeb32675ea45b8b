package render_test

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestDataPlaneObjects: the tables in docs/data-plane.md list every set, map and chain that Services of all kinds can create, with
// its types or hook and the objects that refer to it.
func TestDataPlaneObjects(t *testing.T) {
	text, err := os.ReadFile("../docs/data-plane.md")
	if err != nil {
		t.Fatal(err)
	}
	want := objects(everything(t)[0])
	got := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([\\w/-]+)` \\| (.*) \\|[^|]+\\|$").FindAllStringSubmatch(string(text), -1) {
		name := m[1]
		if !strings.Contains(m[2], " | ") {
			name += " (chain)"
		}
		got[name] = m[2]
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("the row of %s is\n%s\nwant\n%s", name, got[name], want[name])
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s has a row, but no Service creates it", name)
	}
}

// everything returns tables with Services of every kind, policy and affinity: without endpoints, with an endpoint on this
// node, with one on another node, and with a terminating one on this node beside it; and the same with limits, and with each kind of hash.
func everything(t *testing.T) []*nft.Table {
	t.Helper()
	u := render.Update{Node: render.Node{Name: "a", UnservedPorts: render.RefuseUnserved, AnswerPing: true, Addresses: addrs("192.0.2.10"), MaglevSize: 7, ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}}
	here := render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.1.2:80"), Node: "a", Ready: true}
	there := render.Endpoint{AddrPort: netip.MustParseAddrPort("10.244.2.2:80"), Node: "b", Ready: true}
	leaving := render.Endpoint{AddrPort: here.AddrPort, Node: "a", Serving: true, Terminating: true} // serves this node only
	for i := range 256 {
		endpoints := [][]render.Endpoint{nil, {here}, {there}, {there, leaving}}[i%4]
		s := render.Service{ServiceName: render.ServiceName{Namespace: "ns", Name: fmt.Sprintf("s%d", i)},
			ClusterIPs: addrs(fmt.Sprintf("10.96.0.%d", i)), ExternalIPs: addrs(fmt.Sprintf("203.0.113.%d", i)),
			LoadBalancerIPs: addrs(fmt.Sprintf("198.51.100.%d", i)), InternalLocal: i/4%2 > 0, ExternalLocal: i/8%2 > 0,
			Affinity: time.Duration(i/16%2) * time.Hour,
			Ports:    []render.Port{{Name: "http", Protocol: nft.TCP, Port: 80, NodePort: 30000 + uint16(i), Endpoints: endpoints}}}
		if i >= 128 {
			s.Hashing = []render.Hashing{render.HashClients, render.HashConnections}[i/64%2]
		} else if i >= 64 {
			s.Limits = render.Limits{Rate: nft.Limit{Packets: 9, Per: time.Second, Burst: 9}, Drop: i%2 == 0}
			if i%8 < 4 {
				s.Limits.ClientRate = nft.Limit{Packets: 2, Per: time.Second, Burst: 5}
			}
		}
		if i/32%2 > 0 {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		u.Services = append(u.Services, s)
	}
	return build(t, u)
}

func addrs(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }

var (
	perService = regexp.MustCompile(`\bns/s\d+/tcp/http\b`)
	perSize    = regexp.MustCompile(`\b(lb|draw|maglev-client|maglev-connection)-(?:[2-9]|\d\d+)\b`)
	perRate    = regexp.MustCompile(`\b(clients|client-limit)-\d+-second-\d+\b`)
	aBlock     = regexp.MustCompile(`(?ms)^\t(set|map|chain) (\S+) \{\n(.*?)^\t\}$`)
	aType      = regexp.MustCompile(`(?m)^\t\ttype(?:of)? (.*?)(?: : (.*))?$`)
	aHook      = regexp.MustCompile(`(?m)^\t\ttype nat (hook \w+) (priority -?\d+);`)
	aReference = regexp.MustCompile(`(goto |jump |@)([\w/-]+)`)
)

// objects returns, for each set, map and chain of a table, the cells of its row in the document except the last one. Names of
// Services, sizes of balancing chains and rates are replaced by the document's placeholders.
func objects(table *nft.Table) map[string]string {
	text := perSize.ReplaceAllString(perService.ReplaceAllString(table.String(), "PORT"), "$1-K")
	text = perRate.ReplaceAllString(text, "$1-RATE")
	blocks := aBlock.FindAllStringSubmatch(text, -1)
	users := make(map[string][]string) // the objects that refer to "@SET" or "goto CHAIN"; a jump counts as a goto
	for _, b := range blocks {
		for _, m := range aReference.FindAllStringSubmatch(b[3], -1) {
			object := strings.Replace(m[1], "jump", "goto", 1) + m[2]
			users[object] = append(users[object], "`"+b[2]+"`")
		}
	}
	by := func(object string) string {
		return strings.Join(slices.Compact(slices.Sorted(slices.Values(users[object]))), ", ")
	}
	rows := make(map[string]string)
	for _, b := range blocks {
		kind, name, body := b[1], b[2], b[3]
		if hook := aHook.FindStringSubmatch(body); hook != nil {
			rows[name+" (chain)"] = hook[1] + ", " + hook[2]
		} else if kind == "chain" {
			rows[name+" (chain)"] = by("goto " + name)
		} else {
			types := aType.FindStringSubmatch(body)
			rows[name] = fmt.Sprintf("%s | `%s` | %s | %s", kindOf(kind, body), types[1], dataOf(types[2]), by("@"+name))
		}
	}
	return rows
}

// kindOf returns the kind of a set or map, by its declaration.
func kindOf(keyword, declaration string) string {
	switch {
	case strings.Contains(declaration, "flags dynamic"):
		return keyword + ", filled by packets"
	case strings.Contains(declaration, "flags interval"):
		return "interval " + keyword
	case strings.Contains(declaration, ": verdict\n"):
		return "verdict " + keyword
	}
	return keyword
}

// dataOf returns the cell of the data types of a map.
func dataOf(types string) string {
	if types == "" || types == "verdict" {
		return types
	}
	return "`" + types + "`"
}
