package watcher

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHasIPv6: the kernel has IPv6 if the file with the interfaces' IPv6 addresses exists, even if it is empty.
func TestHasIPv6(t *testing.T) {
	root := t.TempDir()
	if hasIPv6(root) {
		t.Error("true without the file")
	}
	file := filepath.Join(root, "proc/self/net/if_inet6")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !hasIPv6(root) {
		t.Error("false with the file")
	}
}
