package watcher

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirNode(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "s.yaml"), serviceYAML("b", "10.96.0.2")+"---\n"+serviceYAML("a", "10.96.0.1"))
	})
	d.write("n1.yaml", nodeYAML("n1", "z1", "fd00:1::1", "192.0.2.1"))
	d.expect("z1", "192.0.2.1 fd00:1::1", "a", "b")
	d.write("n1.yaml", nodeYAML("n1", "z2", "192.0.2.1", "fd00:1::1"))
	d.expect("z2", "192.0.2.1 fd00:1::1", "a", "b")
	d.write("n1.yaml", nodeYAML("n1", "z2", "192.0.2.9"))
	d.expect("z2", "192.0.2.9", "a", "b")
	for _, text := range []string{
		"# a comment\n" + nodeYAML("n1", "z2", "192.0.2.9"),
		nodeYAML("n1", "z2", "192.0.2.9", "192.0.2.10"),
		nodeYAML("n1", "z2", "192.0.2.9") + "spec: {unschedulable: true}\n",
		nodeYAML("n1", "z2", "192.0.2.9") + "---\n" + nodeYAML("n2", "z3", "192.0.2.12"),
	} {
		d.write("n1.yaml", text)
		d.quiet()
	}
	d.write("s2.yaml", serviceYAML("c", "10.96.0.3")) // the Update has only the new Service
	d.expect("z2", "192.0.2.9", "c")
	d.must(os.Rename(filepath.Join(d.path, "n1.yaml"), filepath.Join(d.path, "n2.yaml")))
	d.quiet()
	d.remove("n2.yaml")
	d.expect("", "", "a", "b", "c")
	d.until("a "+noEndpoint, "b "+noEndpoint, "c "+noEndpoint)
}

// TestDirNodeAlone: a change of the Node gives an Update even if there is no Service.
func TestDirNodeAlone(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1"))
	d.expect("z1", "192.0.2.1")
	d.write("n1.yaml", "# nothing\n")
	d.expect("", "")
}

// TestDirNodeWithServices: if Services and the Node change together, one Update has each Service once, in its new state, and
// the removed ones.
func TestDirNodeWithServices(t *testing.T) {
	t.Parallel()
	all := serviceYAML("a", "10.96.0.1") + "---\n" + serviceYAML("b", "10.96.0.2") + "---\n" + serviceYAML("c", "10.96.0.3")
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "all.yaml"), all) })
	edited := strings.Replace(serviceYAML("a", "10.96.0.1"), "80", "81", 1) + "---\n" + serviceYAML("b", "10.96.0.2")
	d.write("all.yaml", edited+"---\n"+nodeYAML("n1", "z1"))
	update, err := d.next(patience)
	d.must(err)
	if len(update.Services) != 2 || len(update.Removed) != 1 || update.Node.Zone != "z1" {
		t.Errorf("unexpected Update: %v", update)
	}
	d.until("a  81/tcp", "b "+noEndpoint)
}

func TestDirNodeKeepsLastGood(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1", "x"))
	d.expect("z1", "192.0.2.1", "a")
	d.logged(1, "level=WARN", `object="Node n1"`, "field=status.addresses[2].address", "is not an IP address")
	d.write("n1.yaml", strings.Replace(nodeYAML("n1", "z2"), "status", "statuss", 1))
	d.quiet()
	d.logged(1, "level=ERROR", `object="Node n1"`, "field=statuss")
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1", "x"))
	d.quiet()
	d.logged(1, "level=WARN")
}

func TestDirNodeInTwoFiles(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("n1.yaml", nodeYAML("n1", "z1"))
	d.expect("z1", "", "a")
	d.write("n2.yaml", nodeYAML("n1", "z2"))
	d.quiet()
	d.logged(1, "level=WARN", "more than one file", `object="Node n1"`, "used=n1.yaml")
	d.remove("n1.yaml")
	d.expect("z2", "", "a")
}
