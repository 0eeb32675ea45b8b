package cli

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"nfproxy/config"
)

// TestFollowConfig: settings that can change while running take effect, and their warnings are logged; others restart.
func TestFollowConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		level := new(slog.LevelVar)
		changed := make(chan config.Edition)
		ctx, cancel := context.WithCancel(t.Context())
		old := config.Settings{File: "conf", Healthz: "0.0.0.0:10256", LogFormat: "text"}
		restart := make(chan bool)
		start := func() { restart <- followConfig(ctx, old, changed, level, logTo(&log)) }

		go start()
		louder := old
		louder.Verbosity = 4
		changed <- config.Edition{Settings: louder, Warnings: []config.Warning{{What: "has no meaning here", Setting: "portRange", File: "conf"}}}
		synctest.Wait()
		if level.Level() != slog.LevelDebug {
			t.Errorf("the level is %s", level)
		}
		other := louder
		other.Healthz, other.Conntrack.Min = "", 1
		changed <- config.Edition{Settings: other, Warnings: []config.Warning{{What: "has no meaning here", Setting: "portRange", File: "conf"}}}
		if !<-restart {
			t.Error("no restart")
		}
		go start()
		cancel()
		if <-restart {
			t.Error("a restart after the end")
		}
		want := `level=WARN msg="has no meaning here" setting=portRange file=conf
level=INFO msg=changed file=conf setting=logging.verbosity value=4
level=INFO msg="restarting for a changed configuration" file=conf settings="[healthzBindAddress conntrack]"
`
		if log.String() != want {
			t.Errorf("log:\n%swant:\n%s", log.String(), want)
		}
	})
}

// logTo returns a logger whose lines have no time.
func logTo(w *strings.Builder) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
