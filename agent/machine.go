package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"nfproxy/render"

	"nfproxy/preflight"
)

// withMachine adds what the node's kernel says of it.
func withMachine(root string, n render.Node, log *slog.Logger) render.Node {
	// The file is there with IPv6, also if it is switched off for all interfaces.
	if _, err := os.Stat(filepath.Join(root, "proc/self/net/if_inet6")); errors.Is(err, fs.ErrNotExist) {
		log.Warn("the kernel has no IPv6: there are no rules for it")
		n.IPv4Only = true
	}
	return n
}

// tellWhatIsMissing says what this node lacks, in the words of nfproxy check. It is no reason to end: a module can still
// come. Without CAP_SYS_ADMIN the kernel is not tried out, and what it lacks is said when it refuses the rules.
func tellWhatIsMissing(lines []preflight.Line, log *slog.Logger) {
	for _, l := range lines {
		if l.Level == preflight.Problem {
			log.Error("this node lacks something that the rules need", "check", l.Check, "finding", l.Finding, "advice", l.Advice)
		}
	}
}
