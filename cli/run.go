package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"

	"github.com/urfave/cli/v2"

	"nfproxy/agent"
	"nfproxy/config"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:  "run",
		Usage: "program the Services of a cluster or of a directory of manifests, and follow their changes",
		Description: "On SIGTERM or SIGINT it ends and leaves the rules: connections go on, and new ones still find\n" +
			"the Services as they were. nfproxy cleanup removes them.",
		Flags:  config.Flags(),
		Before: noArguments,
		Action: runAction,
	}
}

// runAction makes settings of the command line and runs by them; anew, if the file of --config asks for it.
func runAction(c *cli.Context) error {
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
	if s.File == "" {
		return agent.Run(c.Context, s, c.App.Version, log)
	}
	changed := config.Watch(c.Context, s.File, file, log, func(file []byte) (config.Edition, error) {
		s, warnings, err := config.FromCLI(c, file)
		return config.Edition{Settings: s, Warnings: warnings}, err
	})
	anew, err := runWhileFollowing(c.Context, s, c.App.Version, changed, level, log)
	if err != nil || !anew {
		return err
	}
	return reexec()
}

// configFile is the content of the file that --config names, nil if it names none.
func configFile(c *cli.Context) ([]byte, error) {
	if path := c.String("config"); path != "" {
		return os.ReadFile(path)
	}
	return nil, nil
}

// newLogger logs as the settings say. What is logged can be changed while it is in use.
func newLogger(w io.Writer, s config.Settings) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(logLevel(s.Verbosity))
	options := &slog.HandlerOptions{Level: level}
	if s.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), level
	}
	return slog.New(slog.NewTextHandler(w, options)), level
}

func logLevel(verbosity int) slog.Level {
	if verbosity >= 4 {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func logWarnings(log *slog.Logger, warnings []config.Warning) {
	for _, w := range warnings {
		args := []any{"setting", w.Setting}
		if w.File != "" {
			args = append(args, "file", w.File)
		}
		log.Warn(w.What, args...)
	}
}

// runWhileFollowing runs until ctx ends, or until a changed file asks for something that takes a new start: then anew is
// true, and everything has ended cleanly.
func runWhileFollowing(ctx context.Context, s config.Settings, version string, changed <-chan config.Edition, level *slog.LevelVar,
	log *slog.Logger) (anew bool, err error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan bool, 1)
	go func() {
		ended <- follow(running, s, changed, level, log)
		cancel()
	}()
	err = agent.Run(running, s, version, log)
	cancel()
	return <-ended && ctx.Err() == nil, err
}

// follow applies what can change while running. It returns true when something else changed, and false when ctx ends.
func follow(ctx context.Context, s config.Settings, changed <-chan config.Edition, level *slog.LevelVar, log *slog.Logger) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case next := <-changed:
			live, restart := config.Reload(s, next.Settings)
			if len(restart) > 0 {
				log.Info("starting anew for a changed configuration", "file", s.File, "settings", restart)
				return true // what there is to warn of is said then
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

// reexec starts this program anew in its place: the same process, the same arguments and environment. It returns only if
// that fails. The rules stay, the new start takes them over.
func reexec() error {
	if err := syscall.Exec("/proc/self/exe", os.Args, os.Environ()); err != nil {
		return fmt.Errorf("start anew: %w", err)
	}
	return nil
}
