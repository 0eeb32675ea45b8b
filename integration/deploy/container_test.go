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

// container is what a container runtime, or systemd, leaves of the machine to a process: a root, a few mounts, a user,
// capabilities, system calls. Its network is the tests'. Command confine makes it, as a runtime would, and becomes the
// process.
type container struct {
	Root             string            // its files; proc and sys are added, read-only as usual
	Mounts           map[string]string // paths inside, each with what is seen there, read-only
	ReadOnlyRoot     bool
	UID              int
	Capabilities     []int // the bounding set
	Ambient          bool  // a user that is not root has the capabilities as well
	KeepCapabilities bool  // it has them until exec takes them, to which a file's are then not new: containerd's way, not docker's
	NoNewPrivs       bool
	Seccomp          bool // no system calls but those of systemCalls
	OOMScoreAdj      int  // if root on this machine makes it, who alone may lower it
	Args, Env        []string
}

// someUser is nobody on this machine.
const unprivilegedUID = 65532

// newContainer returns a container with the shipped binary at a path.
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

// mount shows files in the container at a directory.
func (c *container) mount(t testing.TB, at string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(c.Root, at), 0o755); err != nil {
		t.Fatal(err)
	}
	c.Mounts[at] = cluster.DirWithFiles(t, files)
}

// shipped is nfproxy as it is shipped, without what tests need.
func shipped(t testing.TB) []byte {
	t.Helper()
	binary, err := buildShipped()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var buildShipped = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "nfproxy")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/nfproxy", ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	return os.ReadFile(dir + "/nfproxy")
})

// start starts what is to run in the container.
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

// confine is the command that becomes a container's process.
func confine() {
	runtime.LockOSThread() // privileges are a thread's; the one that calls exec is the one that stays
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

// enter makes the container's mounts, in a mount namespace of its own, and its root this process's.
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
	if err := bind("/proc", c.Root+"/proc", false); err != nil { // before what is in it
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

// bind shows a directory at another place.
func bind(from, at string, ro bool) error {
	if err := unix.Mount(from, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", from, at, err)
	}
	if !ro {
		return nil
	}
	return readOnly(at)
}

// readOnly keeps the flags that a user namespace must not take away.
func readOnly(at string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(at, &fs); err != nil {
		return err
	}
	const kept = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME
	flags := uintptr(fs.Flags)&kept | unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	if fs.Flags&unix.ST_RELATIME != 0 { // the one that has another number here
		flags |= unix.MS_RELATIME
	}
	if err := unix.Mount("", at, "", flags, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", at, err)
	}
	return nil
}

// canBe says whether this user namespace has that user.
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
