package watcher

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nfproxy/logtest"
	"nfproxy/render"
)

// dirTester is a directory of manifests and a Dir that reads it, as node n1.
type dirTester struct {
	*watched
	path string
	dir  *Dir
}

// newDirTester returns a Dir whose first Update has been taken. prepare, unless it is nil, fills the directory before.
func newDirTester(t *testing.T, prepare func(path string)) *dirTester {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if prepare != nil {
		prepare(path)
	}
	log := new(logtest.Buffer)
	logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir, err := NewDir(path, render.Node{Name: "n1"}, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	d := &dirTester{watched: newWatched(t, dir, log), path: path, dir: dir}
	if _, err := d.next(patience); err != nil {
		t.Fatal("first Update: ", err)
	}
	return d
}

// quiet fails if an Update is pending. Instead of waiting it writes a marker: changes are reported in order, so the marker's
// Update would come after any other.
func (d *dirTester) quiet() {
	d.Helper()
	before := d.services()
	d.write("zz-marker.yaml", serviceYAML("zz-marker", "10.96.255.255"))
	update, err := d.next(patience)
	if err != nil {
		d.Fatal(err)
	}
	if len(update.Services) != 1 || update.Services[0].Name != "zz-marker" || len(update.Removed) > 0 {
		d.Fatalf("unexpected Update: %v", update)
	}
	d.remove("zz-marker.yaml")
	d.until(before...)
}

func (d *dirTester) write(name, text string) {
	d.Helper()
	writeFile(d.T, filepath.Join(d.path, name), text)
}

func (d *dirTester) remove(name string) {
	d.Helper()
	d.must(os.Remove(filepath.Join(d.path, name)))
}

// expect takes an Update and fails unless it contains exactly these facts about the node and these Services, and removes
// none.
func (d *dirTester) expect(zone, addresses string, services ...string) {
	d.Helper()
	update, err := d.next(patience)
	if err != nil {
		d.Fatalf("%v; log:\n%s", err, strings.Join(d.log.Lines(), ""))
	}
	var texts, names []string
	for _, a := range update.Node.Addresses {
		texts = append(texts, a.String())
	}
	for _, s := range update.Services {
		names = append(names, s.Name)
	}
	n := update.Node
	if n.Name != "n1" || n.Zone != zone || strings.Join(texts, " ") != addresses || !slices.Equal(names, services) || update.Removed != nil {
		d.Fatalf("Update %v, want zone %q, addresses %q, Services %v", update, zone, addresses, services)
	}
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The state of Services as watched.until expects it after the Service's name. The port's name is empty.
const (
	noEndpoint  = " 80/tcp"
	oneEndpoint = " 80/tcp 10.1.0.1:8080"
)

func serviceYAML(name, ip string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  clusterIP: %s\n"+
		"  ports:\n  - port: 80\n", name, ip)
}

// nodePortYAML is a Service with node port 30001.
func nodePortYAML(name, ip string) string {
	return strings.Replace(serviceYAML(name, ip), "spec:\n", "spec:\n  type: NodePort\n", 1) + "    nodePort: 30001\n"
}

func sliceYAML(name, service string, addresses ...string) string {
	text := fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: %s\n  labels:\n"+
		"    kubernetes.io/service-name: %s\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n", name, service)
	for _, a := range addresses {
		text += "- addresses: [" + a + "]\n"
	}
	return text
}

func nodeYAML(name, zone string, addresses ...string) string {
	text := "apiVersion: v1\nkind: Node\nmetadata:\n  name: " + name + "\n  labels: {topology.kubernetes.io/zone: " + zone + "}\n" +
		"status:\n  addresses:\n  - {type: Hostname, address: " + name + "}\n"
	for _, a := range addresses {
		text += "  - {type: InternalIP, address: " + a + "}\n"
	}
	return text
}
