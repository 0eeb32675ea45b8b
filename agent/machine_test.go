package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"nfproxy/render"
)

// TestWithMachine: without IPv6 in the kernel there are no rules for it.
func TestWithMachine(t *testing.T) {
	root := t.TempDir()
	if !withMachine(root, render.Node{}, slog.New(slog.DiscardHandler)).IPv4Only {
		t.Error("a machine without IPv6 is not noticed")
	}
	file := filepath.Join(root, "proc/self/net/if_inet6")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if withMachine(root, render.Node{}, slog.New(slog.DiscardHandler)).IPv4Only {
		t.Error("a machine with IPv6 is taken for one without")
	}
}
