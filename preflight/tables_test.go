package preflight

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"nfproxy/nft/kernel"
)

// others' tables, as kube-proxy in its two modes and a firewall make them.
const strangers = `
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

// load loads a ruleset by nft, and removes everything at the end.
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

// TestStrangers: what others have in nftables is found, whoever it is.
func TestStrangers(t *testing.T) {
	load(t, strangers)
	lines := fakeNode(t, healthy()).Check()
	for _, want := range []struct {
		level   Level
		check   string
		finding string
	}{
		{Warning, "kube-proxy-nftables", "table ip kube-proxy, ip6 kube-proxy: "},
		{Warning, "kube-proxy-iptables", "iptables-nft has 2 of kube-proxy's chains (ip nat KUBE-SERVICES, ip nat KUBE-SVC-TCOU7JCQXEZGVUNU): "},
		{OK, "nat-chains", "ip nat PREROUTING, ip nat POSTROUTING at the priorities of ours: "},
		{OK, "forward-policy", "inet firewall forward drops by its policy: "},
		{OK, "nfproxy-tables", "there is none"},
	} {
		if l := find(t, lines, want.check); l.Level != want.level || !strings.HasPrefix(l.Finding, want.finding) {
			t.Errorf("%+v, want %+v", l, want)
		}
	}
}

// TestOurTables: tables of this schema are taken over, those of another replaced.
func TestOurTables(t *testing.T) {
	load(t, `table ip nfproxy { comment "nfproxy schema 1"; }
		table ip6 nfproxy { comment "nfproxy schema 0"; }`)
	var got []string
	for _, l := range fakeNode(t, healthy()).Check() {
		if l.Check == "nfproxy-tables" {
			got = append(got, fmt.Sprintf("%s: %s", l.Level, l.Finding))
		}
	}
	want := []string{"ok: table ip nfproxy is there, of this schema: a start takes it over",
		"warning: table ip6 nfproxy is of schema 0, not 1: a start replaces it"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestKubeProxyElsewhere: what there is none of has no line, and there may be no line at all.
func TestKubeProxyElsewhere(t *testing.T) {
	n := fakeNode(t, healthy())
	if lines := n.KubeProxyElsewhere(nil); len(lines) > 0 {
		t.Errorf("%+v", lines)
	}
	survey := []kernel.SurveyedTable{{Family: "ip6", Name: "nat", Chains: []kernel.SurveyedChain{{Name: "KUBE-NODEPORTS"}}}}
	if lines := n.KubeProxyElsewhere(survey); len(lines) != 1 || !strings.Contains(lines[0].Finding, "ip6 nat KUBE-NODEPORTS") ||
		!strings.Contains(lines[0].Advice, "kube-proxy --cleanup") {
		t.Errorf("%+v", lines)
	}
}
