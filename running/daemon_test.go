package running

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFind: daemons of this network namespace are found by their arguments, and nothing else is: no process without CAP_NET_ADMIN, or with
// that of another user namespace. Files are read as the daemon reads them.
func TestFind(t *testing.T) {
	proc := t.TempDir()
	capabilities, user := "1000", "user:[1]" // of the processes that add adds: CAP_NET_ADMIN
	add := func(pid, netns string, args ...string) {
		dir := filepath.Join(proc, pid)
		for _, d := range []string{"ns", "root/etc"} {
			if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for name, content := range map[string]string{"cmdline": strings.Join(args, "\x00") + "\x00", "environ": "A=1\x00B=x=y\x00", "exe": "",
			"status": "Name:\tCapEff:ffff\nUid:\t1000\nCapPrm:\t0000000000001000\nCapEff:\t000000000000" + capabilities + "\n", "root/etc/config": "of " + pid} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for name, to := range map[string]string{"ns/net": "net:[" + netns + "]", "ns/user": user, "cwd": "/etc"} {
			if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("self", "1", "/nfproxy", "status")
	add("12", "1", "/nfproxy", "run", "--config=config")
	add("7", "1", "/usr/bin/nfproxy", "run")
	add("8", "2", "/nfproxy", "run")
	add("9", "1", "/nfproxy", "dump")
	add("10", "1", "/bin/other", "run")
	add("11", "1", "/nfproxy")
	capabilities = "efff" // all of the first 16 but CAP_NET_ADMIN
	add("5", "1", "/nfproxy", "run", "--kubeconfig=/home/mallory/config")
	capabilities, user = "1000", "user:[2]"
	add("6", "1", "/nfproxy", "run", "--kubeconfig=/home/mallory/config")
	if err := os.Mkdir(filepath.Join(proc, "13"), 0o755); err != nil { // a process that has ended meanwhile
		t.Fatal(err)
	}
	all, err := find(proc)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range all {
		got = append(got, fmt.Sprint(d.PID, d.Args, d.Env))
	}
	if want := "[7 [run] [A=1 B=x=y] 12 [run --config=config] [A=1 B=x=y]]"; fmt.Sprint(got) != want {
		t.Fatalf("%v, want %s", got, want)
	}
	for _, path := range []string{"config", "/etc/config"} {
		if content, err := all[1].ReadFile(path); err != nil || string(content) != "of 12" {
			t.Errorf("%s: %q, %v", path, content, err)
		}
	}
	if _, err := all[1].ReadFile("none"); err == nil || err.Error() != "read /etc/none: no such file or directory" {
		t.Errorf("a missing file: %v", err)
	}
}
