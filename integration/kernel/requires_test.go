package kernel

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// requireLinux skips the test on a kernel older than major.minor, which lacks a feature that the test needs.
func requireLinux(t *testing.T, major, minor int, feature string) {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var is, sub int
	if _, err := fmt.Sscanf(release, "%d.%d", &is, &sub); err != nil {
		t.Fatalf("kernel release %q: %v", release, err)
	}
	if is < major || is == major && sub < minor {
		t.Skipf("Linux %s lacks %s: needs %d.%d or newer, for example Debian's 6.1; make test-kernels runs it there", release, feature, major, minor)
	}
}
