//go:build linux

package conformance

import (
	"strings"
	"testing"
)

// TestParseCgroups: the cgroups of a process are found in each hierarchy of cgroup v1, and a machine without one of the controllers that
// kubelet needs is an error that names it.
func TestParseCgroups(t *testing.T) {
	exists := func(string) bool { return true }
	const v1 = "9:name=systemd:/a\n8:pids:/\n6:freezer:/\n5:devices:/\n4:memory:/b/c\n3:cpuset:/\n2:cpu,cpuacct:/d\n0::/\n"
	all, err := parseCgroups(v1, exists)
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, h := range all {
		dirs = append(dirs, h.dir)
	}
	const want = "/sys/fs/cgroup/systemd/a /sys/fs/cgroup/pids /sys/fs/cgroup/freezer /sys/fs/cgroup/devices /sys/fs/cgroup/memory/b/c /sys/fs/cgroup/cpuset /sys/fs/cgroup/cpu,cpuacct/d"
	if got := strings.Join(dirs, " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for text, missing := range map[string]string{"0::/user.slice\n": "cpu:", strings.Replace(v1, "4:memory:/b/c\n", "", 1): "memory:"} {
		if _, err := parseCgroups(text, exists); err == nil || !strings.Contains(err.Error(), "cgroup v1 controller "+missing) {
			t.Errorf("%q: error %v, want one about %s", text, err, missing)
		}
	}
}
