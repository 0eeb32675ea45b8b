package cli

import (
	"context"
	"log/slog"

	"github.com/urfave/cli/v2"

	"nfproxy/agent"
	"nfproxy/config"
)

func runCommand(signals *terminations) *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "program the Services of a cluster, or of a directory of manifests, and follow their changes",
		Description: "On SIGTERM or SIGINT, run ends and keeps the rules: open connections continue, and new connections still reach\n" +
			"the Services as last programmed. nfproxy cleanup removes the rules.",
		Flags:  config.Flags(),
		Before: noArguments,
		Action: func(c *cli.Context) error { return runAction(c, signals) },
	}
}

// runAction runs the agent with the settings of the command line. It restarts the process if the file of --config changes a
// setting that takes effect only at the start.
func runAction(c *cli.Context, signals *terminations) error {
	file, err := configFile(c)
	if err != nil {
		return err
	}
	s, warnings, err := config.FromCLI(c, file)
	log, level := newLogger(c.App.ErrWriter, s)
	logWarnings(log, warnings)
	if err != nil {
		return err
	}
	guard := agent.InheritGuard(s.Node.Instance)
	defer guard.Close()
	if s.File == "" {
		return agent.Run(c.Context, s, c.App.Version, guard, log)
	}
	changed := config.Watch(c.Context, s.File, file, log, func(file []byte) (config.Edition, error) {
		s, warnings, err := config.FromCLI(c, file)
		return config.Edition{Settings: s, Warnings: warnings}, err
	})
	restart, err := runUntilRestart(c.Context, s, c.App.Version, guard, changed, level, log)
	if err != nil || !restart {
		return err
	}
	return reexec(guard, signals)
}

// runUntilRestart runs the agent until ctx is done, or until a changed file needs a restart. Then restart is true, and the
// agent has shut down.
func runUntilRestart(ctx context.Context, s config.Settings, version string, guard *agent.Guard, changed <-chan config.Edition,
	level *slog.LevelVar, log *slog.Logger) (restart bool, err error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan bool, 1)
	go func() {
		ended <- followConfig(running, s, changed, level, log)
		cancel()
	}()
	err = agent.Run(running, s, version, guard, log)
	cancel()
	return <-ended && ctx.Err() == nil, err
}

// followConfig applies changed settings that can take effect while running. It returns true when another setting changed,
// and false when ctx is done.
func followConfig(ctx context.Context, s config.Settings, changed <-chan config.Edition, level *slog.LevelVar, log *slog.Logger) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case next := <-changed:
			live, restart := config.Reload(s, next.Settings)
			if len(restart) > 0 {
				log.Info("restarting for a changed configuration", "file", s.File, "settings", restart)
				return true // the restart logs the warnings
			}
			logWarnings(log, next.Warnings)
			if live.Verbosity != s.Verbosity {
				log.Info("changed", "file", s.File, "setting", "logging.verbosity", "value", live.Verbosity)
			}
			level.Set(logLevel(live.Verbosity))
			s = live
		}
	}
}
