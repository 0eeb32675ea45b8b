package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nfproxy/render"

	"nfproxy/preflight"
)

// TestTellWhatIsMissing: a problem is an error in the log, with what to do; what is well, or a warning, is not said.
func TestTellWhatIsMissing(t *testing.T) {
	var out strings.Builder
	tellWhatIsMissing([]preflight.Line{
		{Level: preflight.OK, Check: "kernel", Finding: "Linux 6.1"},
		{Level: preflight.Warning, Check: "namespace", Finding: "not tried"},
		{Level: preflight.Problem, Check: "numgen", Finding: "the kernel refuses it", Advice: "modprobe nft_numgen"},
	}, slog.New(slog.NewTextHandler(&out, nil)))
	const want = ` level=ERROR msg="this node lacks something that the rules need" check=numgen finding="the kernel refuses it" advice="modprobe nft_numgen"`
	if strings.Count(out.String(), "\n") != 1 || !strings.HasSuffix(out.String(), want+"\n") {
		t.Error(out.String())
	}
}

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
