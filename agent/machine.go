package agent

import (
	"log/slog"

	"nfproxy/preflight"
)

// tellWhatIsMissing says what this node lacks, in the words of nfproxy check. It is no reason to end: a module can still
// come. Without CAP_SYS_ADMIN the kernel is not tried out, and what it lacks is said when it refuses the rules.
func tellWhatIsMissing(lines []preflight.Line, log *slog.Logger) {
	for _, l := range lines {
		if l.Level == preflight.Problem {
			log.Error("this node lacks something that the rules need", "check", l.Check, "finding", l.Finding, "advice", l.Advice)
		}
	}
}
