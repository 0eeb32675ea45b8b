package watcher

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHasIPv6: the kernel has IPv6 if it lists IPv6 addresses of interfaces, even none.
func TestHasIPv6(t *testing.T) {
	root := t.TempDir()
	if hasIPv6(root) {
		t.Error("a kernel without IPv6 is taken for one with IPv6")
	}
	file := filepath.Join(root, "proc/self/net/if_inet6")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !hasIPv6(root) {
		t.Error("a kernel with IPv6 is taken for one without IPv6")
	}
}
