package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/config"
	"nfproxy/logtest"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// guardOwners returns the guard tables in this namespace with their owners.
func guardOwners(t *testing.T) ownedTables {
	t.Helper()
	c, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tables, err := guardTables(c, render.Instance{})
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// addTable adds a table to this namespace and returns the connection that did, which owns the table if it has an owner.
func addTable(t *testing.T, table *nft.Table) *kernel.Conn {
	t.Helper()
	c, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Apply(nft.Diff(nil, []*nft.Table{table}), 0); err != nil {
		t.Fatal(err)
	}
	return c
}

// wantOtherDaemon fails the test unless an error names a table of another daemon.
func wantOtherDaemon(t *testing.T, err error, table string) {
	t.Helper()
	if other, ok := errors.AsType[*OtherDaemonError](err); !ok || other.Table.String() != table {
		t.Errorf("%v, not an error about %s of another daemon", err, table)
	}
}

// TestGuardRace: of daemons that start at the same instant exactly one gets the guard. The others get it one after the other, as
// soon as the one that has it ends. A daemon without IPv6 excludes one with IPv6, and the reverse.
func TestGuardRace(t *testing.T) {
	const daemons, rounds = 8, 4
	for range rounds {
		guards := make([]Guard, daemons)
		errs := make([]error, daemons)
		begin := make(chan struct{})
		var claiming sync.WaitGroup
		for i := range guards {
			families := []nft.Family{nft.IPv4, nft.IPv6}[:1+i%2]
			claiming.Go(func() {
				<-begin
				errs[i] = guards[i].Claim(families...)
			})
		}
		close(begin)
		claiming.Wait()
		for left := daemons; left > 0; left-- {
			winner := -1
			for i, err := range errs {
				if err == nil && guards[i].socket != nil {
					if winner >= 0 {
						t.Fatalf("daemons %d and %d both have the guard", winner, i)
					}
					winner = i
				} else if _, other := errors.AsType[*OtherDaemonError](err); err != nil && !other {
					t.Error(err) // which of its tables the error names depends on the moment
				}
			}
			if winner < 0 {
				t.Fatal("no daemon has the guard")
			}
			if err := guards[winner].Close(); err != nil {
				t.Fatal(err)
			}
			for i, err := range errs {
				if err != nil {
					errs[i] = guards[i].Claim(nft.IPv4)
				}
			}
		}
	}
	if left := guardOwners(t); len(left) > 0 {
		t.Errorf("tables that stayed: %v", left)
	}
}

// TestGuardOfOlderDaemon: a daemon of v0.1.0, whose guard tables have numbers, excludes this one. Tables of these names without
// an owner belong to no daemon: the one whose name is needed is replaced.
func TestGuardOfOlderDaemon(t *testing.T) {
	old := addTable(t, &nft.Table{TableID: nft.TableID{Family: nft.IPv6, Name: "nfproxy-guard-4711"}, Owner: true})
	var g Guard
	defer g.Close()
	wantOtherDaemon(t, g.Claim(nft.IPv4, nft.IPv6), "ip6 nfproxy-guard-4711")
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	ownerless := []*nft.Table{{TableID: nft.TableID{Family: nft.IPv4, Name: GuardTable}}, {TableID: nft.TableID{Family: nft.IPv4, Name: "nfproxy-guard-1"}}}
	c := addTable(t, ownerless[0])
	addTable(t, ownerless[1])
	if err := g.Claim(nft.IPv4, nft.IPv6); err != nil {
		t.Fatal(err)
	}
	for id, owner := range guardOwners(t) {
		if owned := id.Name == GuardTable; (owner != 0) != owned {
			t.Errorf("%s has the owner %d", id, owner)
		}
	}
	if err := c.Apply(nft.Diff(ownerless[1:], nil), 0); err != nil {
		t.Error(err)
	}
}

// TestGuardHandOver: the next program of a process that executes itself again has the guard, and the kernel's tables are the same
// ones. A number that is not that of the guard's socket is ignored.
func TestGuardHandOver(t *testing.T) {
	t.Setenv(handoverEnv, "") // restored at the end
	var g Guard
	defer g.Close()
	if err := g.HandOver(); err != nil || os.Getenv(handoverEnv) != "" {
		t.Fatalf("a guard that is not claimed hands over %q: %v", os.Getenv(handoverEnv), err)
	}
	if err := g.Claim(nft.IPv4, nft.IPv6); err != nil {
		t.Fatal(err)
	}
	before := guardOwners(t)
	if err := g.HandOver(); err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(os.Getenv(handoverEnv))
	if err != nil {
		t.Fatal(err)
	}
	closedOnExec := func(number int) bool {
		flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0)
		if err != nil {
			t.Fatal(err)
		}
		return flags&unix.FD_CLOEXEC != 0
	}
	if closedOnExec(number) {
		t.Error("the socket does not survive the execution")
	}
	// In place of the execution, which leaves this program no other file: a duplicate of the socket, and the end of the original.
	if number, err = unix.Dup(number); err != nil {
		t.Fatal(err)
	}
	t.Setenv(handoverEnv, strconv.Itoa(number))
	heir := InheritGuard(render.Instance{})
	defer heir.Close()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if !closedOnExec(number) {
		t.Error("programs that the next one executes get the socket as well")
	}
	if _, still := os.LookupEnv(handoverEnv); still {
		t.Error("the environment variable is still there")
	}
	if err := heir.Claim(nft.IPv4, nft.IPv6); err != nil {
		t.Errorf("the next program claims the guard: %v", err)
	}
	if after := guardOwners(t); fmt.Sprint(after) != fmt.Sprint(before) || len(after) != 2 {
		t.Errorf("tables and owners %v, before %v", after, before)
	}
	wantOtherDaemon(t, new(Guard).Claim(nft.IPv4), "ip "+GuardTable)
	unrelated := addTable(t, &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "unrelated"}, Owner: true})
	socket, err := unrelated.Socket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for _, value := range []string{"", "x", "-1", "0", "99999", strconv.Itoa(int(socket.Fd()))} {
		t.Setenv(handoverEnv, value)
		if wrong := InheritGuard(render.Instance{}); wrong.socket != nil {
			t.Errorf("%s=%s is taken for the guard's socket", handoverEnv, value)
		}
	}
}

// TestStandby: while another daemon runs, this one is alive, not ready and not eligible for load balancers, and writes nothing. When
// the other ends, this one programs its Services. The end of a daemon that waits is no error.
func TestStandby(t *testing.T) {
	newNodeNetwork(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(healthManifest), 0o600); err != nil {
		t.Fatal(err)
	}
	var other Guard
	defer other.Close()
	if err := other.Claim(nft.IPv4); err != nil {
		t.Fatal(err)
	}
	var log logtest.Buffer
	run := func(ctx context.Context) (ended chan error) {
		ended = make(chan error, 1)
		var guard Guard
		go func() {
			err := Run(ctx, config.Settings{Manifests: dir, Healthz: "127.0.0.1:10256", Node: render.Node{Name: "node-a"}}, "v1.2.3", &guard,
				slog.New(slog.NewTextHandler(&log, nil)))
			ended <- errors.Join(err, guard.Close())
		}()
		return ended
	}
	answers := func(path string, code int, body string) bool {
		answer, err := http.Get("http://127.0.0.1:10256" + path)
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		got, _ := io.ReadAll(answer.Body)
		return answer.StatusCode == code && (body == "" || string(got) == body)
	}
	k, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		removeTables(t, k)
		k.Close()
		if t.Failed() {
			t.Logf("logged:\n%s", log.String())
		}
	})
	wantNoTables := func() {
		t.Helper()
		if tables, _, err := k.Read(render.Instance{}.TableIDs()...); err != nil || len(tables) > 0 {
			t.Errorf("the daemon that waits has added %d tables: %v", len(tables), err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := run(ctx)
	within(t, "not ready", func() bool { return answers("/readyz", 503, "another nfproxy daemon programs this node") })
	if !answers("/livez", 200, "") || !answers("/healthz", 503, "") {
		t.Error("a daemon that waits is not alive, or eligible for load balancers")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	wantNoTables()

	ctx, cancel = context.WithCancel(t.Context())
	ended = run(ctx)
	within(t, "not ready", func() bool { return answers("/readyz", 503, "another nfproxy daemon programs this node") })
	wantNoTables()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "ready", func() bool { return answers("/readyz", 200, "ok") && answers("/healthz", 200, "") })
	if tables, _, err := k.Read(render.Instance{}.TableIDs()...); err != nil || len(tables) != 2 {
		t.Errorf("%d tables: %v", len(tables), err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestGuardOfInstance: daemons of different names run at the same time, and one of each name at most. A daemon of v0.1.0 has no name.
func TestGuardOfInstance(t *testing.T) {
	blue, err := render.NewInstance("blue")
	if err != nil {
		t.Fatal(err)
	}
	old := addTable(t, &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: "nfproxy-guard-4711"}, Owner: true})
	wantOtherDaemon(t, NewGuard(render.Instance{}).Claim(nft.IPv4), "ip nfproxy-guard-4711")
	first := NewGuard(blue)
	if err := errors.Join(first.Claim(nft.IPv4), first.Close(), old.Close()); err != nil {
		t.Fatalf("beside a daemon of v0.1.0: %v", err)
	}
	guards := []*Guard{NewGuard(render.Instance{}), NewGuard(blue)}
	for i, g := range guards {
		defer g.Close()
		if err := g.Claim(nft.IPv4, nft.IPv6); err != nil {
			t.Fatalf("guard %d: %v", i, err)
		}
	}
	wantOtherDaemon(t, NewGuard(render.Instance{}).Claim(nft.IPv4), "ip "+GuardTable)
	wantOtherDaemon(t, NewGuard(blue).Claim(nft.IPv4), "ip "+GuardTable+"/blue")
	c, err := kernel.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := guards[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := RunningDaemon(c, render.Instance{}); err != nil {
		t.Errorf("the daemon without a name has ended: %v", err)
	}
	wantOtherDaemon(t, RunningDaemon(c, blue), "ip "+GuardTable+"/blue")
}
