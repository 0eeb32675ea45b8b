package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/logtest"
	"nfproxy/render"
)

// tester is a directory and a Dir on it.
type tester struct {
	*watched
	path string
	dir  *Dir
}

func newTester(t *testing.T, prepare func(path string)) *tester {
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
	d := &tester{watched: newWatched(t, dir, log), path: path, dir: dir}
	if _, err := d.next(5 * time.Second); err != nil {
		t.Fatal("first Update: ", err)
	}
	return d
}

// quiet fails if there is an Update. It does not wait for nothing: the marker that it writes last is seen last.
func (d *tester) quiet() {
	d.Helper()
	before := d.services()
	d.write("zz-marker.yaml", serviceYAML("zz-marker", "10.96.255.255"))
	update, err := d.next(10 * time.Second)
	if err != nil {
		d.Fatal(err)
	}
	if len(update.Services) != 1 || update.Services[0].Name != "zz-marker" || len(update.Removed) > 0 {
		d.Fatalf("an Update with %v", update)
	}
	d.remove("zz-marker.yaml")
	d.until(before...)
}

func (d *tester) write(name, text string) {
	d.Helper()
	writeFile(d.T, filepath.Join(d.path, name), text)
}

func (d *tester) remove(name string) {
	d.Helper()
	d.must(os.Remove(filepath.Join(d.path, name)))
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func serviceYAML(name, ip string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  clusterIP: %s\n"+
		"  ports:\n  - port: 80\n", name, ip)
}

func sliceYAML(name, service string, addresses ...string) string {
	text := fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: %s\n  labels:\n"+
		"    kubernetes.io/service-name: %s\naddressType: IPv4\nports:\n- port: 8080\nendpoints:\n", name, service)
	for _, a := range addresses {
		text += "- addresses: [" + a + "]\n"
	}
	return text
}

const (
	plain = " 80/tcp" // a Service without endpoints, after its name and its port's empty name
	oneUp = " 80/tcp 10.1.0.1:8080"
)

func TestNewDirErrors(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, "")
	for _, path := range []string{file, file + "/none", filepath.Join(t.TempDir(), "none")} {
		if d, err := NewDir(path, render.Node{}, log); err == nil {
			_ = d.Close()
			t.Errorf("%s: no error", path)
		}
	}
}

func TestDirFirstRead(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	d.until()
	d = newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+sliceYAML("a-1", "a", "10.1.0.1"))
		writeFile(t, filepath.Join(path, "b.yml"), serviceYAML("b", "10.96.0.2"))
		writeFile(t, filepath.Join(path, "c.json"), `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"clusterIP":"10.96.0.3"}}`)
		writeFile(t, filepath.Join(path, ".d.yaml"), serviceYAML("d", "10.96.0.4"))
		writeFile(t, filepath.Join(path, "e.txt"), serviceYAML("e", "10.96.0.5"))
		if err := os.Mkdir(filepath.Join(path, "f.yaml"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff([]string{"a " + oneUp, "b " + plain, "c "}, d.services()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d.log.Lines("level=WARN") != nil || d.log.Lines("level=ERROR") != nil {
		t.Errorf("log:\n%s", d.log.Lines())
	}
}

func TestDirFollowsFiles(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	d.write("a.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a " + plain)
	d.write("a-1.yaml", sliceYAML("a-1", "a", "10.1.0.1"))
	d.until("a " + oneUp)
	d.write("a-1.yaml", sliceYAML("a-1", "a", "10.1.0.1", "10.1.0.2")) // in place
	d.until("a " + oneUp + " 10.1.0.2:8080")
	d.write(".new", sliceYAML("a-1", "a", "10.1.0.1"))
	d.must(os.Rename(filepath.Join(d.path, ".new"), filepath.Join(d.path, "a-1.yaml")))
	d.until("a " + oneUp)
	d.must(os.Rename(filepath.Join(d.path, "a-1.yaml"), filepath.Join(d.path, "a-2.yaml"))) // another name, nothing else
	d.quiet()
	d.must(os.Rename(filepath.Join(d.path, "a-2.yaml"), filepath.Join(d.path, "a-2.bak")))
	d.until("a " + plain)
	d.remove("a.yaml")
	d.until()
}

func TestDirReadsLinks(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	outside := t.TempDir()
	writeFile(t, filepath.Join(outside, "a"), serviceYAML("a", "10.96.0.1"))
	d.must(os.Symlink(filepath.Join(outside, "a"), filepath.Join(d.path, "a.yaml")))
	d.until("a " + plain)
	writeFile(t, filepath.Join(outside, "b"), serviceYAML("b", "10.96.0.2"))
	d.must(os.Link(filepath.Join(outside, "b"), filepath.Join(d.path, "b.yaml")))
	d.must(os.Remove(filepath.Join(outside, "b"))) // then it has one link, as a file just created has
	d.until("a "+plain, "b "+plain)
}

// A file is read when it is closed and not before, however long the writer takes.
func TestDirWaitsForWriter(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	})
	f, err := os.Create(filepath.Join(d.path, "a.yaml"))
	d.must(err)
	d.quiet()
	_, err = f.WriteString(serviceYAML("a", "10.96.0.1"))
	d.must(err)
	d.dir.watch.poke() // and a round for no reason
	d.quiet()
	_, err = f.WriteString("---\n" + serviceYAML("c", "10.96.0.3"))
	d.must(err)
	d.must(f.Close())
	update, err := d.next(5 * time.Second)
	d.must(err)
	if len(update.Services) != 1 || len(update.Removed) != 1 {
		t.Errorf("not one whole change: %v", update)
	}
	d.until("a "+plain, "c "+plain)

	f, err = os.Create(filepath.Join(d.path, "new.yaml")) // and the same for a file that was not there
	d.must(err)
	d.quiet()
	_, err = f.WriteString(serviceYAML("new", "10.96.0.4"))
	d.must(err)
	d.quiet()
	d.must(f.Close())
	d.until("a "+plain, "c "+plain, "new "+plain)
}

// The same when the file is named by an event although it is being written, as when the next writer is faster than we.
func TestDirWaitsForNextWriter(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	f, err := os.Create(filepath.Join(d.path, "a.yaml"))
	d.must(err)
	d.must(os.Mkdir(filepath.Join(d.path, "..data"), 0o755))
	d.write("z.yaml", serviceYAML("z", "10.96.0.9"))
	d.until("a "+plain, "z "+plain)
	_, err = f.WriteString(serviceYAML("c", "10.96.0.3"))
	d.must(err)
	d.must(f.Close())
	d.until("c "+plain, "z "+plain)
	d.logged(1, "file is being written", "a.yaml")
}

// A ConfigMap is mounted as symlinks through ..data, which is renamed over when the ConfigMap changes.
func TestDirConfigMap(t *testing.T) {
	t.Parallel()
	publish := func(t testing.TB, path, version, text string) {
		t.Helper()
		for _, err := range []error{
			os.Mkdir(filepath.Join(path, version), 0o755),
			os.WriteFile(filepath.Join(path, version, "a.yaml"), []byte(text), 0o644),
			os.Symlink(version, filepath.Join(path, "..data_tmp")),
			os.Rename(filepath.Join(path, "..data_tmp"), filepath.Join(path, "..data")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	d := newTester(t, func(path string) {
		publish(t, path, "..1", serviceYAML("a", "10.96.0.1"))
		if err := os.Symlink("..data/a.yaml", filepath.Join(path, "a.yaml")); err != nil {
			t.Fatal(err)
		}
	})
	d.until("a " + plain)
	publish(t, d.path, "..2", serviceYAML("b", "10.96.0.2"))
	d.until("b " + plain)
	d.must(os.RemoveAll(filepath.Join(d.path, "..1")))
	d.quiet()
}

func TestDirList(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	item := func(text string) string {
		return "- " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
	}
	list := "apiVersion: v1\nkind: List\nmetadata:\n  resourceVersion: \"\"\nitems:\n"
	d.write("all.yaml", list+item(serviceYAML("a", "10.96.0.1"))+item(sliceYAML("a-1", "a", "10.1.0.1")))
	d.until("a " + oneUp)
	bad := strings.Replace(serviceYAML("b", "10.96.0.2"), "clusterIP", "clusterIPP", 1)
	d.write("all.yaml", list+item(bad)+item(serviceYAML("c", "10.96.0.3")))
	d.until("a "+oneUp, "c "+plain)
	d.logged(1, "level=ERROR", "file=all.yaml", "document=1", "item=items[0]", `object="Service default/b"`, "field=spec.clusterIPP", "unknown field")
}

func TestDirKeepsLastGood(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+serviceYAML("b", "10.96.0.2"))
	})
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\na: [\n---\n"+serviceYAML("c", "10.96.0.3"))
	d.until("a "+plain, "b "+plain, "c "+plain)
	d.logged(1, "level=ERROR", "file=a.yaml", "document=2", "did not find expected node content")
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")+"---\na: [\n---\n"+serviceYAML("c", "10.96.0.3")) // the same again
	d.quiet()
	d.logged(1, "level=ERROR")
	d.write("a.yaml", "nonsense: true\nspec: {}\n")
	d.quiet()
	d.logged(1, "level=ERROR", "there is no kind")
	d.write("a.yaml", strings.Replace(serviceYAML("a", "10.96.0.9"), "port:", "prot:", 1))
	d.quiet()
	d.logged(1, "level=ERROR", "field=spec.ports[0].prot", "object=\"Service default/a\"")
	d.write("a.yaml", serviceYAML("a", "10.96.0.1")) // good: what is missing is gone
	d.until("a " + plain)
	d.write("a.yaml", "# nothing\n")
	d.until()
}

func TestDirUnreadable(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.must(os.Symlink("nowhere", filepath.Join(d.path, "tmp2")))
	d.must(os.Rename(filepath.Join(d.path, "tmp2"), filepath.Join(d.path, "a.yaml")))
	d.quiet()
	d.logged(1, "level=ERROR", "file=a.yaml", "no such file")
	d.write("nowhere", serviceYAML("b", "10.96.0.2"))
	d.until("b " + plain)
}

func TestDirProblems(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	text := strings.Replace(serviceYAML("a", "10.96.0.1"), "- port: 80", "- port: 80\n  - port: 70000\n    name: x", 1)
	d.write("a.yaml", text+"---\n"+sliceYAML("a-1", "a", "10.1.0.1", "127.0.0.1"))
	d.until("a " + oneUp)
	d.logged(1, "level=WARN", `object="Service default/a"`, "field=spec.ports[1].port", "70000 is not a port")
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
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "1.yaml"), serviceYAML("a", "10.96.0.1"))
		writeFile(t, filepath.Join(path, "2.yaml"), other)
	})
	d.until("a " + plain)
	d.logged(1, "level=WARN", "more than one file", `object="Service default/a"`, "used=1.yaml", `files="1.yaml 2.yaml"`)
	d.write("2.yaml", other+"# edited\n")
	d.quiet()
	d.logged(1, "level=WARN")
	d.write("1.yaml", serviceYAML("b", "10.96.0.2"))
	d.until("a  81/tcp", "b "+plain)
	d.write("0.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a "+plain, "b "+plain)
	d.remove("0.yaml")
	d.until("a  81/tcp", "b "+plain)
	d.remove("2.yaml")
	d.until("b " + plain)
}

func TestDirUnknownKind(t *testing.T) {
	t.Parallel()
	deployment := "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n"
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), deployment+serviceYAML("a", "10.96.0.1"))
	})
	d.until("a " + plain)
	d.logged(1, "level=WARN", "document=1", "apps/v1 Deployment is ignored")
	d.write("a.yaml", deployment+serviceYAML("b", "10.96.0.1")) // it does not hold up the removal of others
	d.until("b " + plain)
	d.logged(1, "level=WARN")
}

func TestDirEditsThatChangeNothing(t *testing.T) {
	t.Parallel()
	slice1, slice2 := sliceYAML("a-1", "a", "10.1.0.1", "10.1.0.2"), sliceYAML("a-2", "a", "10.1.0.3")
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")+"---\n"+slice1+"---\n"+slice2)
	})
	for _, text := range []string{
		"# a comment\n" + serviceYAML("a", "10.96.0.1") + "---\n" + slice1 + "---\n" + slice2,
		slice2 + "---\n" + sliceYAML("a-1", "a", "10.1.0.2", "10.1.0.1") + "---\n" + serviceYAML("a", "10.96.0.1"),
		strings.Replace(serviceYAML("a", "10.96.0.1"), "name: a", "name: a\n  labels: {x: y}", 1) + "---\n" + slice1 + "---\n" + slice2,
		serviceYAML("a", "10.96.0.1") + "---\n" + sliceYAML("a-9", "a", "10.1.0.3", "10.1.0.2", "10.1.0.1"),
	} {
		d.write("a.yaml", text)
		d.quiet()
	}
}

// However the same objects are spread over files, they come out the same.
func TestDirAnyOrder(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		texts = append(texts, serviceYAML(name, fmt.Sprintf("10.96.0.%d", i+1)),
			sliceYAML(name+"-1", name, "10.1.0.3", "10.1.0.1"), sliceYAML(name+"-2", name, "10.1.0.2", "10.1.0.1"))
	}
	var want []string
	for range 4 {
		rand.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })
		d := newTester(t, func(path string) {
			for i, text := range texts {
				writeFile(t, filepath.Join(path, fmt.Sprintf("%02d.yaml", i)), text)
			}
		})
		if want == nil {
			want = d.services()
		}
		if diff := cmp.Diff(want, d.services()); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func TestDirRemovedAndMadeAgain(t *testing.T) {
	t.Parallel()
	for _, how := range []struct {
		name string
		away func(string) error
	}{
		{"moved", func(path string) error { return os.Rename(path, path+".old") }},
		{"removed empty", os.Remove},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			empty := how.name != "moved"
			d := newTester(t, func(path string) {
				if !empty {
					writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1"))
				}
			})
			d.must(how.away(d.path))
			if update, err := d.next(1500 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("an Update without a directory: %v, %v", update, err)
			}
			d.logged(1, "level=ERROR", "directory is gone")
			d.must(os.Mkdir(d.path, 0o755))
			d.write("b.yaml", serviceYAML("b", "10.96.0.2"))
			d.until("b " + plain)
			d.write("b.yaml", serviceYAML("c", "10.96.0.3")) // it is watched again
			d.until("c " + plain)
		})
	}
}

// Another directory under the same name gives no event if some process still works in the removed one.
func TestDirReplacedUnseen(t *testing.T) {
	t.Parallel()
	var parent string
	d := newTester(t, func(path string) { parent = filepath.Dir(path) })
	busy, err := os.Open(d.path)
	d.must(err)
	defer busy.Close()
	d.must(os.Remove(d.path))
	d.must(os.Mkdir(filepath.Join(parent, "manifests"), 0o755))
	d.write("a.yaml", serviceYAML("a", "10.96.0.1"))
	d.until("a " + plain)
}

func TestDirBurst(t *testing.T) {
	t.Parallel()
	const count = 2000
	d := newTester(t, nil)
	go func() {
		for i := range count {
			name := fmt.Sprintf("s%d", i)
			text := serviceYAML(name, fmt.Sprintf("10.96.%d.%d", i/250, i%250+1))
			if err := os.WriteFile(filepath.Join(d.path, name+".yaml"), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}()
	for len(d.state) < count {
		if _, err := d.next(10 * time.Second); err != nil {
			t.Fatalf("%v with %d of %d Services", err, len(d.state), count)
		}
	}
}

// Events that the kernel drops leave no trace but their number.
func TestDirReadsAllAfterManyEvents(t *testing.T) {
	t.Parallel()
	w := &watch{limit: 100, wake: make(chan struct{}, 1)}
	for range 49 {
		w.count()
	}
	if w.take().all {
		t.Fatal("too early")
	}
	w.count()
	if !w.take().all {
		t.Fatal("not after half a queue")
	}
	w.count()
	if w.take().all {
		t.Fatal("all again at once")
	}
}

func TestDirClose(t *testing.T) {
	before := runtime.NumGoroutine()
	for i := range 20 {
		path := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		d, err := NewDir(path, render.Node{}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 { // with nothing left to watch, and with events nobody took
			writeFile(t, filepath.Join(path, "a.yaml"), "")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		result := make(chan error)
		go func() {
			_, err := d.Next(context.Background())
			result <- err
		}()
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := <-result; !errors.Is(err, os.ErrClosed) {
			t.Fatalf("Next after Close: %v", err)
		}
	}
	// The library's goroutine has closed its channels and is about to return.
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

func TestDirNextEndsWithContext(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	if _, err := d.next(10 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

// A file that gets another name takes nothing away, however the two events are taken.
func TestDirRename(t *testing.T) {
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	names := []string{"a.yaml", "b.yaml"}
	for i := range 200 {
		d.must(os.Rename(filepath.Join(d.path, names[i%2]), filepath.Join(d.path, names[(i+1)%2])))
		if update, err := d.next(time.Millisecond); err == nil {
			t.Fatalf("rename %d: an Update with %v", i, update)
		}
	}
	d.quiet()
}

// The first Update waits for a file that is being written: what it lacks would be taken out of the kernel.
func TestDirFirstReadWaitsForWriter(t *testing.T) {
	path := t.TempDir()
	f, err := os.Create(filepath.Join(path, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	dir, err := NewDir(path, render.Node{Name: "n1"}, log)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if update, err := dir.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("an Update before the writer is done: %v, %v", update, err)
	}
	if _, err := f.WriteString(serviceYAML("a", "10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	update, err := dir.Next(context.Background())
	if err != nil || len(update.Services) != 1 {
		t.Errorf("%v, %v", update, err)
	}
}
