package watcher

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDirList(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	item := func(text string) string {
		return "- " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
	}
	list := "apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: \"\"\nitems:\n"
	d.write("all.yaml", list+item(serviceYAML("a", "10.96.0.1"))+item(sliceYAML("a-1", "a", "10.1.0.1")))
	d.until("a " + oneEndpoint)
	bad := strings.Replace(serviceYAML("b", "10.96.0.2"), "clusterIP", "clusterIPP", 1)
	d.write("all.yaml", list+item(bad)+item(serviceYAML("c", "10.96.0.3")))
	d.until("a "+oneEndpoint, "c "+noEndpoint)
	d.logged(1, "level=ERROR", "file=all.yaml", "document=1", "item=items[0]", `object="Service default/b"`, "field=spec.clusterIPP", "unknown field")
}

func TestDirKeepsLastGood(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	})
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\na: [\n---\n"+serviceYAML("c", "10.96.0.3"))
	d.until("a "+noEndpoint, "b "+noEndpoint, "c "+noEndpoint)
	d.logged(1, "level=ERROR", "file=a.yaml", "document=2", "did not find expected node content")
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\na: [\n---\n"+serviceYAML("c", "10.96.0.3")) // the same content
	d.quiet()
	d.logged(1, "level=ERROR")
	d.write("a.yaml", "nonsense: true\nspec: {}\n")
	d.quiet()
	d.logged(1, "level=ERROR", "field=kind", "detail=missing")
	d.write("a.yaml", strings.Replace(serviceYAML("a", "10.96.0.9"), "port:", "prot:", 1))
	d.quiet()
	d.logged(1, "level=ERROR", "field=spec.ports[0].prot", "object=\"Service default/a\"")
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")) // a good manifest: objects that it lacks are removed
	d.until("a " + noEndpoint)
	d.write("a.yaml", "# nothing\n")
	d.until()
}

func TestDirUnreadable(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.must(os.Symlink("nowhere", filepath.Join(d.path, "tmp2")))
	d.must(os.Rename(filepath.Join(d.path, "tmp2"), filepath.Join(d.path, "a.yaml")))
	d.quiet()
	d.logged(1, "level=ERROR", "file=a.yaml", "no such file")
	d.write("nowhere", serviceYAML("b", "10.96.0.2"))
	d.until("b " + noEndpoint)
}

func TestDirProblems(t *testing.T) {
	t.Parallel()
	d := newDirTester(t, nil)
	text := strings.Replace(serviceYAML("a", "10.96.0.1"), "- port: 80", "- port: 80\n  - port: 70000\n    name: x", 1)
	d.write("a.yaml", text+"---\n"+sliceYAML("a-1", "a", "10.1.0.1", "127.0.0.1"))
	d.until("a " + oneEndpoint)
	d.logged(1, "level=WARN", `object="Service default/a"`, "field=spec.ports[1].port", "70000 is not a port number")
	d.logged(1, "level=WARN", `object="EndpointSlice default/a-1"`, "field=endpoints[1].addresses[0]", "loopback")
	d.write("a.yaml", text+"---\n"+sliceYAML("a-1", "a", "10.1.0.2", "127.0.0.1"))
	d.until("a " + " 80/tcp 10.1.0.2:8080")
	d.logged(2, "level=WARN")
	d.write("a.yaml", strings.Replace(text, "  ports:", "  type: ExternalName\n  ports:", 1)+"---\n"+sliceYAML("a-1", "a", "10.1.0.2"))
	d.until()
	d.logged(1, "level=DEBUG", `object="Service default/a"`, "field=spec.type")
	d.logged(2, "level=WARN")
}

func TestDirSameObjectInTwoFiles(t *testing.T) {
	t.Parallel()
	other := strings.Replace(serviceYAML("a", "10.96.0.1"), "80", "81", 1)
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "1.yaml"), serviceYAML("a", "10.96.0.1"))
		writeFile(t, filepath.Join(path, "2.yaml"), other)
	})
	d.until("a " + noEndpoint)
	d.logged(1, "level=WARN", "more than one file", `object="Service default/a"`, "used=1.yaml", `files="1.yaml 2.yaml"`)
	d.write("2.yaml", other+"# edited\n")
	d.quiet()
	d.logged(1, "level=WARN")
	d.write("1.yaml", serviceYAML("b", "10.96.0.2"))
	d.until("a  81/tcp", "b "+noEndpoint)
	d.write("0.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a "+noEndpoint, "b "+noEndpoint)
	d.remove("0.yaml")
	d.until("a  81/tcp", "b "+noEndpoint)
	d.remove("2.yaml")
	d.until("b " + noEndpoint)
}

func TestDirUnknownKind(t *testing.T) {
	t.Parallel()
	deployment := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n"
	d := newDirTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), deployment+serviceYAML("a", "10.96.0.1"))
	})
	d.until("a " + noEndpoint)
	d.logged(1, "level=WARN", "document=1", "apps/v1 Deployment is ignored")
	d.write("a.yaml", deployment+serviceYAML("b", "10.96.0.1")) // an ignored object does not prevent removals
	d.until("b " + noEndpoint)
	d.logged(1, "level=WARN")
}
