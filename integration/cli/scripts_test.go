package cli

import (
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

func TestMain(m *testing.M) { cluster.Main(m, nil) }

var update = flag.Bool("update", false, "rewrite the outputs that the scripts expect; review the diff before committing it")

// TestScripts: each file in testdata is a session at a terminal. They run one after the other, since they share the tables.
func TestScripts(t *testing.T) {
	testscript.RunT(inTurn{t}, testscript.Params{
		Dir: "integration/cli/testdata", UpdateScripts: *update,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": eventually, "eventually-same": eventuallySame,
			"terminate": terminate, "link": link, "network": network, "connect": connectFromPod,
			"open": openFromPod, "echo": echo, "reset": reset},
		Setup: func(e *testscript.Env) error { // the commands stay in this namespace
			e.Setenv(cluster.OutsideEnv, os.Getenv(cluster.OutsideEnv))
			e.Values[scriptPod{}], e.Values[scriptConnection{}] = new(*sandbox.Pod), new(net.Conn)
			return exec.Command("nft", "flush", "ruleset").Run() // in the sandbox: each script starts without rules
		},
	})
}

// inTurn is a testing.T that runs scripts one after the other.
type inTurn struct{ *testing.T }

func (inTurn) Parallel()     {}
func (inTurn) Verbose() bool { return testing.Verbose() }
func (t inTurn) Run(name string, f func(testscript.T)) {
	t.T.Run(name, func(t *testing.T) { f(inTurn{t}) })
}

// eventually runs a command until its output matches, or with ! until it does not, for at most thirty seconds:
// [!] eventually PATTERN COMMAND [ARG...]
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: [!] eventually PATTERN COMMAND [ARG...]")
	}
	pattern := regexp.MustCompile("(?s)" + args[0])
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		out := ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if err == nil && pattern.MatchString(out) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v: %v, with %q in it: %v\n%s", args[1:], err, args[0], neg, out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// eventuallySame runs a command until its output is the content of a file, for at most thirty seconds:
// eventually-same FILE COMMAND [ARG...]
func eventuallySame(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: eventually-same FILE COMMAND [ARG...]")
	}
	eventually(ts, false, append([]string{"^" + regexp.QuoteMeta(ts.ReadFile(args[0])) + "$"}, args[1:]...))
}

// terminate sends SIGTERM to the background commands; the script command kill supports only SIGINT and SIGKILL.
func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
	}
}

// link adds an interface with addresses until the script ends: link NAME ADDRESS/BITS...
func link(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 || !sandbox.Inside() {
		ts.Fatalf("usage: link NAME ADDRESS/BITS..., in a sandbox")
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: args[0]}, PeerName: args[0] + "-far"}
	ts.Check(netlink.LinkAdd(pair))
	ts.Defer(func() { ts.Check(netlink.LinkDel(pair)) })
	for _, name := range []string{pair.PeerName, pair.Name} {
		l, err := netlink.LinkByName(name)
		ts.Check(err)
		ts.Check(netlink.LinkSetUp(l))
	}
	for _, text := range args[1:] {
		addr, err := netlink.ParseAddr(text)
		ts.Check(err)
		addr.Flags = unix.IFA_F_NODAD // usable at once
		ts.Check(netlink.AddrAdd(pair, addr))
	}
}

// TestWithoutPrivilege: without CAP_NET_ADMIN, commands print one line, with exit code 1. A process in a new user namespace
// has no privileges in its parent's network namespace.
func TestWithoutPrivilege(t *testing.T) {
	for _, args := range [][]string{{"run", "--manifests", "docs/demo"}, {"dump"}, {"cleanup"}, {"explain", "--to", "10.96.0.1:80"},
		{"trace", "--to", "web"}} {
		cmd := cluster.Command(t, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		out, err := cmd.CombinedOutput()
		const want = "nfproxy: nftables can be read and changed only with CAP_NET_ADMIN: run as root, or grant that capability\n"
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || string(out) != want {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

// TestDemo: the demo succeeds when run as a user would run it.
func TestDemo(t *testing.T) {
	cmd := cluster.Command(t, "demo")
	cmd.Env = append(os.Environ(), cluster.OutsideEnv+"=") // it creates its own sandbox
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{`10\.0\.0\.224:80 +[45]\d\d `, "finance/payment-service +10.96.0.1:80 ", ", 0 failed; since the change",
		`10\.244\.2\.90:80\*\n`, "from writing nginx.yaml to the change in the kernel: "} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
