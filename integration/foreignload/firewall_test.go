package foreignload

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"nfproxy/integration/cluster"
)

// TestFirewallReloads: a firewall of nft is reloaded, at first in a table of its own, then with a flush of the whole
// ruleset, and one of iptables is restored. No connection fails: those that meet a flush are only delayed. nfproxy repairs its tables
// once for each flush at most, and leaves those of the firewalls alone.
func TestFirewallReloads(t *testing.T) {
	const reloads, flushes = 15, 4
	n := newNode(t)
	n.start()
	n.awaitServed(steady)
	calm := n.awaitServed(other)
	clients := n.clients()
	clients.AwaitMore(t, 20)
	for i := range reloads {
		load(t, "table inet firewall\ndelete table inet firewall\n"+firewall(i), "nft", "-f", "-")
		load(t, iptables(i), "iptables-nft-restore")
	}
	if n.repairs() != 0 {
		t.Errorf("%d repairs of commits that were not about nfproxy's tables", n.repairs())
	}
	for i := range flushes {
		load(t, "flush ruleset\n"+firewall(i), "nft", "-f", "-")
		n.awaitText(calm)
		clients.AwaitMore(t, 20)
	}
	connections := n.wantNoFailure(clients)
	t.Logf("%d reloads of each firewall, %d flushes, %d repairs, %d connections", reloads, flushes, n.repairs(), connections)
	if n.repairs() == 0 || n.repairs() > 2*flushes { // the notifications of one flush may be read in two parts
		t.Errorf("%d repairs of %d flushes", n.repairs(), flushes)
	}
	out, err := cluster.CombinedOutput("nft", "list", "table", "inet", "firewall")
	if err != nil || strings.Count(out, "dport") < 200 {
		t.Errorf("the firewall is no longer complete: %v\n%s", err, out)
	}
	load(t, "flush ruleset\n", "nft", "-f", "-")
	n.awaitText(calm)
	n.stop()
}

// load runs a program with text as its standard input.
func load(t *testing.T, text, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// firewall returns a table of nft as hosts have it, with 200 rules; seed makes two of them differ.
func firewall(seed int) string {
	var b strings.Builder
	b.WriteString("table inet firewall {\n\tset blocked { type ipv4_addr; flags interval; elements = { 198.51.100.0/25, 203.0.113.7 } }\n" +
		"\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\t\tct state established,related accept\n\t\tiif lo accept\n" +
		"\t\tip saddr @blocked drop\n")
	for i := range 200 {
		fmt.Fprintf(&b, "\t\ttcp dport %d ip saddr 198.51.100.%d counter accept\n", 1000+i+seed, i)
	}
	b.WriteString("\t}\n\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tct state invalid drop\n\t}\n}\n")
	return b.String()
}

// iptables returns the rules of a host for iptables-restore, with 200 chains.
func iptables(seed int) string {
	var chains, rules strings.Builder
	for i := range 200 {
		fmt.Fprintf(&chains, ":APP-%d - [0:0]\n", i)
		fmt.Fprintf(&rules, "-A INPUT -p tcp --dport %d -j APP-%d\n-A APP-%d -s 198.51.100.%d -j ACCEPT\n", 2000+i+seed, i, i, i)
	}
	return "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n" + chains.String() + rules.String() + "COMMIT\n"
}
