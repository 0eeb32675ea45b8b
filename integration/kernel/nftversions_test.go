package kernel

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nfproxy/render"
	"nfproxy/sandbox"
)

// nftPackages are the directories below .bin with Debian's packages of nft and its libraries, which `make nft-versions` fills:
// versions 1.0.6, 1.1.3 and the newest.
var nftPackages = []string{"nft-bookworm", "nft-trixie", "nft-newest"}

// An nftVersion is an nft with the libraries of its Debian release.
type nftVersion struct {
	version string
	command []string // the program and its first arguments
}

// nftVersions returns all versions. A missing one fails the test.
func nftVersions(t *testing.T) []nftVersion {
	t.Helper()
	var all []nftVersion
	for _, name := range nftPackages {
		dir, err := filepath.Abs(filepath.Join("../../.bin", name))
		if err != nil {
			t.Fatal(err)
		}
		loaders, _ := filepath.Glob(filepath.Join(dir, "*/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
		newer, _ := filepath.Glob(filepath.Join(dir, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
		loaders = append(loaders, newer...)
		if len(loaders) == 0 {
			t.Fatalf("%s lacks nft: run make nft-versions", dir)
		}
		v := nftVersion{command: []string{loaders[0], "--library-path",
			filepath.Join(dir, "lib/x86_64-linux-gnu") + ":" + filepath.Join(dir, "usr/lib/x86_64-linux-gnu"), filepath.Join(dir, "usr/sbin/nft")}}
		out, err := exec.Command(v.command[0], append(v.command[1:], "--version")...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s --version: %v\n%s", name, err, out)
		}
		v.version = strings.Fields(string(out))[1]
		all = append(all, v)
	}
	return all
}

// must runs nft in a namespace and returns what it prints. The test fails if nft fails.
func (v nftVersion) must(t *testing.T, ns *sandbox.Namespace, stdin string, args ...string) string {
	t.Helper()
	var out []byte
	err := ns.Do(func() (err error) { // a child is born in its parent thread's namespace
		cmd := exec.Command(v.command[0], append(v.command[1:], args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %s %s: %v\n%s", v.version, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// commonTables are tables of another program that every version lists, whichever version made them.
const commonTables = `
table inet firewall {
	counter seen { comment "of all" }
	set admitted { typeof ip saddr . tcp dport; flags interval; elements = { 192.0.2.0/24 . 22, 198.51.100.1 . 80-90 comment "web" } }
	map marks { typeof ip daddr . udp dport : meta mark; elements = { 192.0.2.1 . 53 : 0x1 } }
	chain input {
		type filter hook input priority filter; policy accept;
		ct state { established, related } accept
		ip saddr . tcp dport @admitted counter accept
		ip saddr { 192.0.2.7, 192.0.2.8 } limit rate 10/second burst 5 packets accept
		meta mark set ip daddr . udp dport map @marks
		counter name seen
	}
}
`

// newerTables are tables of another program that end nft 1.0.6 with a segmentation fault if 1.1.3 or newer made them.
const newerTables = `
table ip router {
	set clients { type ipv4_addr; size 1000; flags dynamic,timeout; timeout 1m; }
	map ways { type inet_service : verdict; elements = { 22 : accept, 23 : drop } }
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport vmap @ways
		add @clients { ip saddr limit rate 10/second burst 5 packets }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 192.0.2.0/24 snat to ip saddr map { 192.0.2.1 : 203.0.113.1, 192.0.2.2 : 203.0.113.2 }
		numgen random mod 2 vmap { 0 : accept, 1 : return }
	}
}
`

// TestNFTVersions: every version of nft lists nfproxy's tables beside tables that another version has made, every version loads
// the listing, and the result is the same tables.
func TestNFTVersions(t *testing.T) {
	versions := nftVersions(t)
	for _, lister := range versions {
		for _, other := range versions {
			t.Run(fmt.Sprintf("%s lists, %s loads", lister.version, other.version), func(t *testing.T) {
				foreign := commonTables + newerTables
				if lister.version == "v1.0.6" && other.version != lister.version {
					foreign = commonTables
				}
				listBeside(t, lister, other, foreign)
				listAndLoad(t, lister, other)
			})
		}
	}
}

// programmed returns a node with nfproxy's tables.
func programmed(t *testing.T) *testNode {
	t.Helper()
	l := newTestNode(t)
	l.facts.UnservedPorts, l.facts.AnswerPing = render.RefuseUnserved, true
	l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
	l.reconcile()
	return l
}

// listBeside checks that foreign tables, which another version has made, and nfproxy's are listed together as each alone, and
// that listing changes nothing.
func listBeside(t *testing.T, lister, maker nftVersion, foreign string) {
	t.Helper()
	alone, ours, both := newTestNode(t), programmed(t), programmed(t)
	for _, l := range []*testNode{alone, both} {
		maker.must(t, l.node, foreign, "-f", "-")
	}
	separate := lister.must(t, alone.node, "", "list", "ruleset") + lister.must(t, ours.node, "", "list", "ruleset")
	if together := lister.must(t, both.node, "", "list", "ruleset"); sortedListing(together) != sortedListing(separate) {
		t.Errorf("nft %s lists, beside tables that nft %s has made,\n%s\nand each alone\n%s", lister.version, maker.version, together, separate)
	}
	lister.must(t, both.node, "", "--json", "list", "ruleset")
	if changes := both.reconcile(); len(changes) > 0 {
		t.Errorf("after the listing nfproxy finds %v to change", changes)
	}
}

// listAndLoad checks that one version loads what another has listed, and that nfproxy then finds nothing to change. nft 1.0.6
// does not load the name dstnat in an output hook, which newer versions print, so that the listing has numbers.
func listAndLoad(t *testing.T, lister, loader nftVersion) {
	t.Helper()
	args := []string{"list", "ruleset"}
	if loader.version == "v1.0.6" && lister.version != loader.version {
		args = append([]string{"--numeric-priority"}, args...)
	}
	listing := lister.must(t, programmed(t).node, "", args...)
	again := newTestNode(t)
	loader.must(t, again.node, listing, "-f", "-")
	again.facts.UnservedPorts, again.facts.AnswerPing = render.RefuseUnserved, true
	again.ruleset.Update(render.Update{Node: again.facts, Services: examples()})
	if changes := again.reconcile(); len(changes) > 0 {
		t.Errorf("in the tables that nft %s loaded from the listing of nft %s, nfproxy finds %v to change", loader.version, lister.version, changes)
	}
}

// TestNFTVersionsOfInstance: every version of nft lists and loads the tables of an instance whose name has all kinds of characters,
// beside those of nfproxy without a name.
func TestNFTVersionsOfInstance(t *testing.T) {
	instance, err := render.NewInstance("2.b_L-u9")
	if err != nil {
		t.Fatal(err)
	}
	of := func(l *testNode, i render.Instance) *testNode {
		l.facts.Instance = i
		l.ruleset = render.NewRuleset(l.facts)
		l.ruleset.Update(render.Update{Node: l.facts, Services: examples()})
		l.readByKey(1)
		return l
	}
	for _, nft := range nftVersions(t) {
		l := of(programmed(t), instance)
		l.reconcile()
		listing := nft.must(t, l.node, "", "list", "ruleset")
		again := newTestNode(t)
		again.facts = l.facts
		nft.must(t, again.node, listing, "-f", "-")
		for _, i := range []render.Instance{instance, {}} {
			if changes := of(again, i).reconcile(); len(changes) > 0 {
				t.Errorf("in the tables of %q that nft %s listed and loaded, nfproxy finds %v to change", i.Name(), nft.version, changes)
			}
		}
		nft.must(t, l.node, "", "delete", "table", "ip", "nfproxy/2.b_L-u9")
	}
}
