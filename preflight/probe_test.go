package preflight

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// TestProbes: all probes succeed on this kernel, and the ruleset of the calling network namespace does not change.
func TestProbes(t *testing.T) {
	before := generation(t)
	lines := Here(render.Instance{}).Essential()
	if len(lines) < 25 {
		t.Errorf("only %d lines", len(lines))
	}
	for _, l := range lines {
		if l.Level != OK {
			t.Errorf("%+v", l)
		}
	}
	if after := generation(t); after != before {
		t.Errorf("ruleset generation %d, was %d before the probes", after, before)
	}
}

// generation returns the generation of the ruleset, which changes with every nftables transaction in the network namespace.
func generation(t testing.TB) uint32 {
	t.Helper()
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	n, err := k.Generation()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestProbesHaveNamesAndNeeds: each probe has a unique name, a description, kernel options and tables; without IPv6 no probe
// has an IPv6 table.
func TestProbesHaveNamesAndNeeds(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range Probes(true) {
		if seen[p.Name] || p.What == "" || len(p.Options) == 0 || len(p.Tables) == 0 {
			t.Errorf("%+v", p)
		}
		seen[p.Name] = true
	}
	for _, p := range Probes(false) {
		for _, table := range p.Tables {
			if table.Family == nft.IPv6 {
				t.Errorf("%s needs IPv6", p.Name)
			}
		}
	}
}

// TestMissingExpression: a failed probe is reported with what it needs, and the other probes still run. The kernel rejects a
// lookup in a missing set with the same error as an unknown expression: ENOENT.
func TestMissingExpression(t *testing.T) {
	missing := Probe{Name: "teapot", What: "short and stout expression", Options: []string{"CONFIG_NFT_TEAPOT", "CONFIG_TEA"},
		Modules: []string{"nft_teapot"}, Since: "9.1", Tables: oneRule(nft.IPv4, "teapot", nft.Prerouting,
			nft.VerdictMap{Key: frontendFields, Map: "nosuch"}, nil)}
	n := Here(render.Instance{})
	n.Probes = func(ipv6 bool) []Probe { return slices.Concat([]Probe{missing}, Probes(ipv6)) }
	lines := n.Essential()
	if Worst(lines) != Problem {
		t.Errorf("worst level %s", Worst(lines))
	}
	for _, l := range lines {
		if l.Check != "teapot" && l.Level != OK {
			t.Errorf("%+v", l)
		}
	}
	l := find(t, lines, "teapot")
	if want := "rejected by the kernel: short and stout expression: add rule ip probe-teapot probe "; !strings.HasPrefix(l.Finding, want) ||
		!strings.HasSuffix(l.Finding, ": no such file or directory") {
		t.Errorf("finding %q", l.Finding)
	}
	if want := "needs CONFIG_NFT_TEAPOT and CONFIG_TEA and Linux 9.1 or newer; if built as a module: modprobe nft_teapot"; l.Advice != want {
		t.Errorf("advice %q, want %q", l.Advice, want)
	}
}

// TestNoNamespace: without permission to create a network namespace, one warning reports that no probe ran.
func TestNoNamespace(t *testing.T) {
	n := Here(render.Instance{})
	n.Scratch = func() (*kernel.Conn, error) { return nil, os.ErrPermission }
	lines := n.Essential()
	if l := find(t, lines, "namespace"); l.Level != Warning || !strings.Contains(l.Advice, "CAP_SYS_ADMIN") {
		t.Errorf("%+v", l)
	}
	if len(lines) != 3 || Worst(lines) != Warning {
		t.Errorf("%+v", lines)
	}
}

// TestNoNFTables: a kernel without nf_tables and missing permission are reported as different problems.
func TestNoNFTables(t *testing.T) {
	n := Here(render.Instance{})
	n.Open = func() (*kernel.Conn, error) { return nil, errors.New("protocol not supported") }
	if l := find(t, n.Check(), "nf_tables"); l.Level != Problem || !strings.Contains(l.Advice, "CONFIG_NF_TABLES") {
		t.Errorf("%+v", l)
	}
	n.Open = func() (*kernel.Conn, error) { return nil, os.ErrPermission }
	if l := find(t, n.Check(), "privileges"); l.Level != Problem || !strings.Contains(l.Finding, "CAP_NET_ADMIN") {
		t.Errorf("%+v", l)
	}
}

// find returns the only line of a check.
func find(t testing.TB, lines []Line, check string) Line {
	t.Helper()
	var found []Line
	for _, l := range lines {
		if l.Check == check {
			found = append(found, l)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d lines of check %s in %+v", len(found), check, lines)
	}
	return found[0]
}

func BenchmarkEssential(b *testing.B) {
	for b.Loop() {
		Here(render.Instance{}).Essential()
	}
}

// TestMissingOptionalExpression: a failed probe of a feature that only a flag requires is a warning, which names the flag.
func TestMissingOptionalExpression(t *testing.T) {
	missing := Probe{Name: "teapot", What: "a short expression", Options: []string{"CONFIG_TEA"}, Flag: "--tea"}
	l := missing.rejected(os.ErrNotExist)
	if want := "only --tea requires it; it needs CONFIG_TEA"; l.Level != Warning || l.Advice != want {
		t.Errorf("%+v, want the advice %q", l, want)
	}
}

// TestProbesOfAnnotations: the probes of hashes and limits load one, and a kernel without them gives a warning that names the annotations,
// not a problem.
func TestProbesOfAnnotations(t *testing.T) {
	for _, c := range []struct{ name, rule, advice string }{
		{"hash", "jhash ip saddr . th sport mod 3",
			"only the annotation lb-algorithm: maglev requires it; it needs CONFIG_NFT_HASH; if built as a module: modprobe nft_hash"},
		{"limit", "limit rate over 1/second", "only a limit on new connections (annotation max-connection-rate) requires it; " +
			"it needs CONFIG_NFT_LIMIT and Linux 5.7 or newer; if built as a module: modprobe nft_limit"},
	} {
		i := slices.IndexFunc(Probes(false), func(p Probe) bool { return p.Name == c.name })
		if i < 0 {
			t.Fatalf("no probe %s", c.name)
		}
		p := Probes(false)[i]
		if text := p.Tables[0].String(); !strings.Contains(text, c.rule) {
			t.Errorf("%s", text)
		}
		if l := p.rejected(os.ErrNotExist); l.Level != Warning || l.Advice != c.advice {
			t.Errorf("%+v, want advice %q", l, c.advice)
		}
	}
}
