package preflight

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// otherPrograms are tables as kube-proxy in nftables mode, kube-proxy in iptables mode and a firewall make them.
const otherPrograms = `
table ip kube-proxy {
	chain nat-prerouting { type nat hook prerouting priority -100; }
	chain filter-forward { type filter hook forward priority 0; policy drop; }
}
table ip6 kube-proxy { }
table inet kube-proxy { }
table ip nat {
	chain PREROUTING { type nat hook prerouting priority -100; jump KUBE-SERVICES; }
	chain POSTROUTING { type nat hook postrouting priority 100; jump KUBE-POSTROUTING; }
	chain INPUT { type nat hook input priority 100; }
	chain elsewhere { type nat hook prerouting priority 7; }
	chain KUBE-SERVICES { }
	chain KUBE-POSTROUTING { }
	chain KUBE-SVC-TCOU7JCQXEZGVUNU { }
}
table ip mangle {
	chain KUBE-KUBELET-CANARY { }
}
table inet firewall {
	chain forward { type filter hook forward priority 0; policy drop; }
	chain input { type filter hook input priority 0; policy drop; }
}
`

// load loads a ruleset with nft, and flushes the ruleset at the end of the test.
func load(t *testing.T, ruleset string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

// TestOtherTables: tables and chains of kube-proxy and of other programs are found.
func TestOtherTables(t *testing.T) {
	load(t, otherPrograms)
	lines := fakeNode(t, healthy()).Check()
	for _, want := range []struct {
		level   Level
		check   string
		finding string
	}{
		{Warning, "kube-proxy-nftables", "kube-proxy tables: ip kube-proxy, ip6 kube-proxy; "},
		{Warning, "kube-proxy-iptables", "kube-proxy chains in iptables-nft: 2 (ip nat KUBE-SERVICES, ip nat KUBE-SVC-TCOU7JCQXEZGVUNU); "},
		{OK, "nat-chains", "ip nat PREROUTING, ip nat POSTROUTING at the priorities of nfproxy: "},
		{OK, "forward-policy", "policy drop in inet firewall forward: "},
		{OK, "nfproxy-tables", "no tables of nfproxy"},
	} {
		if l := find(t, lines, want.check); l.Level != want.level || !strings.HasPrefix(l.Finding, want.finding) {
			t.Errorf("%+v, want %+v", l, want)
		}
	}
}

// TestBesideOtherProxies: to an nfproxy with a service proxy name, kube-proxy and other nfproxies are no problem.
func TestBesideOtherProxies(t *testing.T) {
	load(t, otherPrograms+`table ip nfproxy {
		chain prerouting { type nat hook prerouting priority -100; }
	}
		table ip6 nfproxy/green { }
		table ip nfproxy/blue { comment "nfproxy schema 1"; }`)
	n := fakeNode(t, healthy())
	var err error
	if n.Instance, err = render.NewInstance("blue"); err != nil {
		t.Fatal(err)
	}
	lines := n.Check()
	for check, want := range map[string]string{
		"kube-proxy-nftables": "kube-proxy tables: ip kube-proxy, ip6 kube-proxy; they serve the Services without a service proxy name",
		"kube-proxy-iptables": "kube-proxy chains in iptables-nft: 2 (ip nat KUBE-SERVICES, ip nat KUBE-SVC-TCOU7JCQXEZGVUNU); they serve the Services without a service proxy name",
		"nat-chains":          "ip nat PREROUTING, ip nat POSTROUTING at the priorities of nfproxy: the first chain to translate a connection wins",
		"nfproxy-instances":   "ip nfproxy, ip6 nfproxy/green: another nfproxy serves Services of another service proxy name there",
		"nfproxy-tables":      "table ip nfproxy/blue has the current schema: nfproxy run adopts it",
	} {
		if l := find(t, lines, check); l.Level != OK || l.Finding != want {
			t.Errorf("%+v, want ok: %s", l, want)
		}
	}
}

// TestNfproxyTables: a start adopts tables of the current schema and replaces those of another schema.
func TestNfproxyTables(t *testing.T) {
	load(t, `table ip nfproxy { comment "nfproxy schema 1"; }
		table ip6 nfproxy { comment "nfproxy schema 0"; }`)
	var got []string
	for _, l := range fakeNode(t, healthy()).Check() {
		if l.Check == "nfproxy-tables" {
			got = append(got, fmt.Sprintf("%s: %s", l.Level, l.Finding))
		}
	}
	want := []string{"ok: table ip nfproxy has the current schema: nfproxy run adopts it",
		"warning: table ip6 nfproxy has schema 0, not 1: nfproxy run replaces it"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestKubeProxyLeftovers: only leftovers have lines, so a node without any has none.
func TestKubeProxyLeftovers(t *testing.T) {
	n := fakeNode(t, healthy())
	if lines := n.KubeProxyLeftovers(nil); len(lines) > 0 {
		t.Errorf("%+v", lines)
	}
	survey := []kernel.SurveyedTable{{Family: "ip6", Name: "nat", Chains: []kernel.SurveyedChain{{Name: "KUBE-NODEPORTS"}}}}
	if lines := n.KubeProxyLeftovers(survey); len(lines) != 1 || !strings.Contains(lines[0].Finding, "ip6 nat KUBE-NODEPORTS") ||
		!strings.Contains(lines[0].Advice, "kube-proxy --cleanup") {
		t.Errorf("%+v", lines)
	}
}
