package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// manyServices returns n Services with one endpoint each.
func manyServices(n int) []render.Service {
	services := make([]render.Service, n)
	for i := range services {
		addr := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
		services[i] = testService(fmt.Sprint("s", i), netip.AddrPortFrom(addr, 80).String(), "10.0.0.1:80")
	}
	return services
}

// external has another program change elements of one of nfproxy's sets.
func (d *testDaemon) external(op nft.Op, s *nft.Set, elements ...nft.Element) {
	d.t.Helper()
	if err := d.kernel.Apply([]nft.Change{{Op: op, Object: nft.Elements{Set: s, List: elements}}}, 0); err != nil {
		d.t.Fatal(err)
	}
}

// TestRestoresElements: if another program deletes, replaces or adds elements, the daemon repairs these elements without reading
// the tables.
func TestRestoresElements(t *testing.T) {
	d := startDaemon(t)
	d.send(manyServices(100)...)
	d.await()
	before := d.text()
	services := render.SchemaOf(nft.IPv4).Services
	tables, _, err := d.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	some := tables[0].Set(services.Name).Elements[:3]
	replaced := slices.Clone(some)
	for i := range replaced {
		replaced[i].Data = nft.Verdict{Kind: nft.Drop}.Value()
	}
	foreign := nft.Element{Key: some[0].Key[:len(some[0].Key)-1] + "\x07", Data: replaced[0].Data}
	for _, c := range []struct {
		op       nft.Op
		elements []nft.Element
	}{{nft.Delete, some}, {nft.Replace, replaced}, {nft.Add, []nft.Element{foreign}}} {
		d.external(c.op, services, c.elements...)
		got := d.await()
		if got.full || !got.repaired || len(got.changes) != 1 || got.operations() < len(c.elements) {
			t.Errorf("the commit is %+v, not a repair of %d elements", got, len(c.elements))
		}
		if text := d.text(); text != before {
			t.Errorf("afterwards the tables are\n%s", text)
		}
	}
	if log := d.log.String(); strings.Count(log, "repaired what others had changed") != 3 {
		t.Errorf("the log says\n%s", log)
	}
}

// TestRestoresWhatIsUnnamed: if another program changes something besides elements, or more elements than a notification
// names, the daemon reads the tables.
func TestRestoresWhatIsUnnamed(t *testing.T) {
	d := startDaemon(t)
	d.send(manyServices(1500)...)
	d.await()
	before := d.text()
	sc := render.SchemaOf(nft.IPv4)
	tables, _, err := d.kernel.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		t.Fatal(err)
	}
	one := nft.Change{Op: nft.Delete, Object: nft.Elements{Set: sc.Services, List: tables[0].Set(sc.Services.Name).Elements[:1]}}
	dispatch := nft.Change{Op: nft.Delete, Object: nft.Rules{Chain: tables[0].Chain(render.DispatchChain)}}
	many := nft.Change{Op: nft.Delete, Object: nft.Elements{Set: sc.Services, List: tables[0].Set(sc.Services.Name).Elements[:1200]}}
	for _, changes := range [][]nft.Change{{one, dispatch}, {many}} {
		if err := d.kernel.Apply(changes, 0); err != nil {
			t.Fatal(err)
		}
		for got := d.await(); !got.full; got = d.await() {
		}
		d.until(before, true)
	}
}

// TestUpdatesUnderCommits: while another program commits all the time, to a table of its own and to nfproxy's, Updates are
// programmed, external changes are repaired, and no Service is quarantined.
func TestUpdatesUnderCommits(t *testing.T) {
	d := startDaemon(t)
	d.send(manyServices(1000)...)
	d.await()
	foreign, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	stop, stopped := make(chan bool), make(chan int)
	go func() {
		commits := 0
		defer func() { stopped <- commits }()
		other := []*nft.Table{{TableID: otherTable("other")}}
		refuse := &nft.Chain{Table: render.Instance{}.TableIDs()[0], Name: render.RefuseChain, Rules: []nft.Rule{{Do: nft.Verdict{Kind: nft.Drop}}}}
		for from, to := []*nft.Table(nil), other; ; from, to = to, from {
			changes := nft.Diff(from, to)
			if commits%200 == 0 {
				changes = append(changes, nft.Change{Op: nft.Add, Object: nft.Rules{Chain: refuse}})
			}
			if err := foreign.Apply(changes, 0); err != nil {
				t.Error(err)
			}
			commits++
			select {
			case <-stop:
				if from == nil {
					_ = foreign.Apply(nft.Diff(to, from), 0)
				}
				return
			default:
			}
		}
	}()
	for i := range 5 {
		name := fmt.Sprint("late", i)
		d.send(testService(name, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 97, 0, byte(i)}), 80).String(), "10.0.0.2:80"))
		d.until("ns/"+name+":p", true)
	}
	close(stop)
	t.Logf("%d commits of another program", <-stopped)
	d.until(render.RefuseChain, true)
	if log := d.log.String(); strings.Contains(log, "the kernel refuses a Service") || strings.Contains(log, "could not program") {
		t.Errorf("the log says\n%s", log)
	}
}

// TestStale: a refusal that an external change can have caused leads to another read; one of the rules themselves, or without an
// external change, does not.
func TestStale(t *testing.T) {
	d := startDaemon(t)
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	run := daemon{kernel: k, ruleset: render.NewRuleset(render.Node{})}
	refusal := func(err error) error { return &kernel.ChangeError{Err: err} }
	if _, _, err := k.Read(render.Instance{}.TableIDs()...); err != nil {
		t.Fatal(err)
	}
	if run.stale(refusal(unix.EEXIST)) {
		t.Error("without an external change the tables are read again")
	}
	d.send(testService("web", "10.96.0.1:80"))
	d.await()
	for _, err := range []error{unix.EEXIST, unix.ENOENT, unix.EBUSY} {
		if !run.stale(refusal(err)) {
			t.Errorf("after an external change and %v the tables are not read again", err)
		}
	}
	if run.stale(refusal(unix.ENAMETOOLONG)) || run.stale(errors.New("another")) {
		t.Error("an external change excuses errors of the rules")
	}
}
