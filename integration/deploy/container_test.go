package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
)

// container describes the environment that a container runtime, or systemd, gives a process: a root file system, a few mounts,
// a user, capabilities and allowed system calls. Its network namespace is that of the tests. The command confine sets the
// environment up, as a runtime does, and then executes the process.
type container struct {
	Root         string            // host directory of the root; /proc is added, /sys and /proc/sys read-only
	Mounts       map[string]string // host directories mounted read-only, by the path inside
	ReadOnlyRoot bool
	UID          int
	Capabilities []int // the bounding set
	Ambient      bool  // a user other than root has the capabilities as well
	// KeepCapabilities keeps the capabilities of a user other than root until execve, so that those of a file are no escalation
	// of privileges. containerd does so, docker does not.
	KeepCapabilities bool
	NoNewPrivs       bool
	Seccomp          bool // only the calls in systemCalls are allowed
	OOMScoreAdj      int  // set if the tests may set it: lowering it takes CAP_SYS_RESOURCE
	Args, Env        []string
}

// unprivilegedUID is the user of containers that do not run as root. No user of the machine has this number.
const unprivilegedUID = 65532

// newContainer returns a container whose root holds the release binary at a path and nothing else.
func newContainer(t testing.TB, path string) *container {
	t.Helper()
	c := &container{Root: cluster.PublicDir(t), Mounts: map[string]string{}}
	c.put(t, path, shipped(t), 0o755)
	for _, dir := range []string{"proc", "sys", "tmp"} {
		if err := os.Mkdir(filepath.Join(c.Root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// put adds a file to the container's root.
func (c *container) put(t testing.TB, path string, content []byte, mode os.FileMode) {
	t.Helper()
	path = filepath.Join(c.Root, path)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, content, mode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mount mounts a directory with these files in the container.
func (c *container) mount(t testing.TB, at string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(c.Root, at), 0o755); err != nil {
		t.Fatal(err)
	}
	c.Mounts[at] = cluster.DirWithFiles(t, files)
}

// shipped returns nfproxy built with the flags of a release, without test code.
func shipped(t testing.TB) []byte {
	t.Helper()
	binary, err := buildShipped()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// buildShipped builds nfproxy once and returns the binary.
var buildShipped = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "nfproxy")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := cluster.Build(dir); err != nil {
		return nil, err
	}
	return os.ReadFile(dir + "/nfproxy")
})

// start starts the process of the container.
func (c *container) start(t testing.TB) *cluster.Process {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("confine")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, string(text))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return cluster.StartProcess(t, cmd)
}

// confine is the main function of the command confine: it sets a container up and executes the container's process.
func confine() {
	runtime.LockOSThread() // privileges belong to a thread, and the thread that calls execve survives it
	var c container
	err := json.Unmarshal([]byte(os.Args[1]), &c)
	if err == nil {
		err = c.enter()
	}
	if err == nil {
		_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(c.OOMScoreAdj)), 0)
		err = c.dropPrivileges()
	}
	if err == nil && c.Seccomp {
		err = filterSystemCalls()
	}
	if err == nil {
		err = unix.Exec(c.Args[0], c.Args, c.Env)
	}
	fmt.Fprintln(os.Stderr, "confine:", err)
	os.Exit(1)
}

// enter mounts the container's file systems, in a mount namespace of its own, and changes the root of the process.
func (c *container) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := bind(c.Root, c.Root, false); err != nil {
		return err
	}
	mounts := map[string]string{"/sys": "/sys", "/proc/sys": "/proc/sys"}
	for at, from := range c.Mounts {
		mounts[at] = from
	}
	if err := bind("/proc", c.Root+"/proc", false); err != nil { // before /proc/sys
		return err
	}
	for at, from := range mounts {
		if err := bind(from, c.Root+at, true); err != nil {
			return err
		}
	}
	if c.ReadOnlyRoot {
		if err := readOnly(c.Root); err != nil {
			return err
		}
	}
	if err := unix.Chroot(c.Root); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// bind mounts a directory at another path, read-only on request.
func bind(from, at string, ro bool) error {
	if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", from, at, err)
	}
	if !ro {
		return nil
	}
	return readOnly(at)
}

// readOnly makes a mount read-only. It keeps the mount's flags, because a user namespace must not clear them.
func readOnly(at string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return err
	}
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(fs.Flags)&kept | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	if fs.Flags&unix.ST_RELATIME != 0 { // the mount flag has another number than the statfs flag
		flags |= unix.MS_RELATIME
	}
	if err := unix.Mount("", at, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", at, err)
	}
	return nil
}

// userExists reports whether the user namespace of the tests maps a user.
func userExists(t testing.TB, uid int) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var first, outside, n int
		if _, err := fmt.Sscan(line, &first, &outside, &n); err != nil {
			t.Fatal(err)
		}
		if first <= uid && uid < first+n {
			return true
		}
	}
	return false
}
