//go:build linux

package controlplane_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestProgramDoesNotImport: the control plane is for tests, and the nfproxy program does not import it.
func TestProgramDoesNotImport(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "nfproxy").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	if slices.Contains(strings.Fields(string(out)), "nfproxy/integration/controlplane") {
		t.Error("package main depends on nfproxy/integration/controlplane")
	}
}
