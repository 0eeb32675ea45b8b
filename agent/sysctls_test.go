package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nfproxy/config"

	"nfproxy/sandbox"
)

func TestConntrackSysctls(t *testing.T) {
	const netfilter = "proc/sys/net/netfilter/nf_conntrack_"
	limit := func(n int) []sysctl {
		return []sysctl{
			{path: netfilter + "max", value: n, setting: "conntrack.maxPerCore"},
			{path: "sys/module/nf_conntrack/parameters/hashsize", value: n / 4, raise: true, setting: "conntrack.maxPerCore"},
		}
	}
	for _, tc := range []struct {
		name string
		in   config.Conntrack
		cpus int
		want []sysctl
	}{
		{"nothing", config.Conntrack{Min: 123456}, 4, nil},
		{"per core", config.Conntrack{MaxPerCore: 32768, Min: 1}, 4, limit(131072)},
		{"the least", config.Conntrack{MaxPerCore: 1, Min: 123456}, 4, limit(123456)},
		{"many cores", config.Conntrack{MaxPerCore: 32768, Min: 131072}, 512, limit(1048576)},
		{"no least", config.Conntrack{MaxPerCore: 12}, 1, limit(12)},
		{"the rest", config.Conntrack{TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour, TCPBeLiberal: true,
			UDPTimeout: 1500 * time.Millisecond, UDPStreamTimeout: 300 * time.Second}, 1, []sysctl{
			{path: netfilter + "tcp_timeout_established", value: 86400, setting: "conntrack.tcpEstablishedTimeout"},
			{path: netfilter + "tcp_timeout_close_wait", value: 3600, setting: "conntrack.tcpCloseWaitTimeout"},
			{path: netfilter + "tcp_be_liberal", value: 1, setting: "conntrack.tcpBeLiberal"},
			{path: netfilter + "udp_timeout", value: 1, setting: "conntrack.udpTimeout"},
			{path: netfilter + "udp_timeout_stream", value: 300, setting: "conntrack.udpStreamTimeout"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, conntrackSysctls(tc.in, tc.cpus), cmp.AllowUnexported(sysctl{})); diff != "" {
				t.Errorf("want -, got +\n%s", diff)
			}
		})
	}
}

// machine is a directory with files in place of a machine's.
func machine(t *testing.T, files map[string]string) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// logTo returns a logger that writes no times.
func logTo(w *strings.Builder) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func TestApplySysctls(t *testing.T) {
	root := machine(t, map[string]string{"low": "1\n", "high": "9\n", "right": "5\n", "raised": "1\n", "words": "many\n"})
	var log strings.Builder
	applySysctls(root, []sysctl{
		{path: "low", value: 5, setting: "a"},
		{path: "high", value: 5, setting: "b"},
		{path: "right", value: 5, setting: "c"},
		{path: "raised", value: 5, raise: true, setting: "d"},
		{path: "raised", value: 4, raise: true, setting: "e"},
		{path: "missing", value: 5, setting: "f"},
		{path: "words", value: 5, setting: "g"},
	}, logTo(&log))
	for name, want := range map[string]string{"low": "5", "high": "5", "right": "5\n", "raised": "5", "words": "many\n"} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, not %q: %v", name, got, want, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "missing")); !os.IsNotExist(err) {
		t.Errorf("a file was made: %v", err)
	}
	const set, not = `level=INFO msg="set a number of the kernel" `, `level=WARN msg="could not set a number of the kernel; it stays as it is" `
	want := set + "file=ROOT/low value=5 setting=a\n" + set + "file=ROOT/high value=5 setting=b\n" + set + "file=ROOT/raised value=5 setting=d\n" +
		not + `file=ROOT/missing value=5 setting=f error="open ROOT/missing: no such file or directory"` + "\n" +
		not + `file=ROOT/words value=5 setting=g error="ROOT/words: strconv.Atoi: parsing \"many\": invalid syntax"` + "\n"
	if got := strings.ReplaceAll(log.String(), root, "ROOT"); got != want {
		t.Errorf("log:\n%swant:\n%s", got, want)
	}
}

func TestSetUpMachine(t *testing.T) {
	const limit, oom = "proc/sys/net/netfilter/nf_conntrack_max", "proc/self/oom_score_adj"
	root := machine(t, map[string]string{limit: "1\n", oom: "0\n", "sys/module/nf_conntrack/parameters/hashsize": "99999\n",
		"sys/devices/system/cpu/online": "0-3,8\n"})
	var log strings.Builder
	setUpMachine(root, config.Settings{}, logTo(&log))
	if log.Len() != 0 {
		t.Errorf("something was done that nobody asked for:\n%s", log.String())
	}
	setUpMachine(root, config.Settings{Conntrack: config.Conntrack{MaxPerCore: 100}, OOMScoreAdj: new(int32(-999))}, logTo(&log))
	for path, want := range map[string]int{limit: 500, oom: -999, "sys/module/nf_conntrack/parameters/hashsize": 99999} {
		if got, err := readNumber(filepath.Join(root, path)); err != nil || got != want {
			t.Errorf("%s is %d, not %d: %v", path, got, want, err)
		}
	}
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{"0": 1, "0-3": 4, "0,2-3,8-15": 11} {
		if got, err := parseCPUs(list); err != nil || got != want {
			t.Errorf("%s: %d CPUs, not %d: %v", list, got, want, err)
		}
	}
	for _, list := range []string{"", "a", "0-b"} {
		if got, err := parseCPUs(list); err == nil {
			t.Errorf("%q: %d CPUs", list, got)
		}
	}
	if n := countCPUs(t.TempDir()); n < 1 {
		t.Errorf("%d CPUs", n)
	}
}

// TestSysctlsOfTheKernel: a network namespace has timeouts of its own; the number of conntrack entries can be set only in the
// initial namespace, and the kernel says so.
func TestSysctlsOfTheKernel(t *testing.T) {
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const netfilter = "/proc/sys/net/netfilter/nf_conntrack_"
	// The test sets only values that belong to the namespace or are refused to it: hashsize belongs to the whole machine.
	timeouts := conntrackSysctls(config.Conntrack{UDPTimeout: 47 * time.Second, TCPEstablished: 4711 * time.Second}, 1)
	var first, second strings.Builder
	err = ns.Do(func() error {
		limit, err := readNumber(netfilter + "max")
		if err != nil {
			return err
		}
		all := append(timeouts, sysctl{path: netfilter[1:] + "max", value: limit + 1, setting: "conntrack.maxPerCore"})
		applySysctls("/", all, logTo(&first))
		applySysctls("/", all, logTo(&second))
		for name, want := range map[string]int{"udp_timeout": 47, "tcp_timeout_established": 4711, "max": limit} {
			if got, err := readNumber(netfilter + name); err != nil || got != want {
				t.Errorf("%s is %d, not %d: %v", name, got, want, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const warned = `level=WARN msg="could not set a number of the kernel; it stays as it is" file=` + netfilter + `max value=\d+ ` +
		`setting=conntrack.maxPerCore error="open .*: permission denied"\n`
	if !regexp.MustCompile(`^(level=INFO [^\n]*\n){2}` + warned + "$").MatchString(first.String()) {
		t.Errorf("the first time:\n%s", first.String())
	}
	if !regexp.MustCompile("^" + warned + "$").MatchString(second.String()) {
		t.Errorf("what was right was written again:\n%s", second.String())
	}
}
