package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"
)

func runCommand() *cli.Command {
	var flags []cli.Flag
	for _, o := range options() {
		flags = append(flags, o.Flag)
	}
	return &cli.Command{
		Name:  "run",
		Usage: "program the Services of a cluster or of a directory of manifests, and follow their changes",
		Description: "On SIGTERM or SIGINT it ends and leaves the rules: connections go on, and new ones still find\n" +
			"the Services as they were. nfproxy cleanup removes them.",
		Flags:  flags,
		Before: noArguments,
		Action: runAction,
	}
}

// runAction makes settings of the command line and runs by them; anew, if the file of --config asks for it.
func runAction(c *cli.Context) error {
	var file []byte
	if path := c.String("config"); path != "" {
		var err error
		if file, err = os.ReadFile(path); err != nil {
			return err
		}
	}
	s, warnings, err := configure(c, file)
	log, level := newLogger(c.App.ErrWriter, s)
	logWarnings(log, warnings)
	if err != nil {
		return err
	}
	if s.configFile == "" {
		return run(c.Context, s, log)
	}
	changed := watchConfig(c.Context, s.configFile, file, log, func(file []byte) (edition, error) {
		s, warnings, err := configure(c, file)
		return edition{s, warnings}, err
	})
	anew, err := runWhileFollowing(c.Context, s, changed, level, log)
	if err != nil || !anew {
		return err
	}
	return reexec()
}

// configure makes settings of the flags and of the file that --config names. The settings are of use to the log alone if
// there is an error.
func configure(c *cli.Context, file []byte) (settings, []warning, error) {
	conf := newConfiguration(c.String("config"))
	if conf.file != "" {
		if conf.read(file); len(conf.problems) > 0 {
			return settings{}, conf.warnings, conf.err()
		}
	}
	setDefaults(&conf.KubeProxyConfiguration)
	for _, o := range options() {
		name := o.Names()[0]
		switch {
		case !c.IsSet(name):
		case conf.file != "" && o.field != "" && !o.overrides:
			conf.warnNamed("--"+name, "ignored because of --config")
		default:
			o.set(conf, c)
			conf.set(o.field, "--"+name)
		}
	}
	if conf.manifests == "" {
		setMachineDefaults(&conf.KubeProxyConfiguration)
	}
	s := conf.settings()
	return s, conf.warnings, conf.err()
}

// newLogger logs as the settings say. What is logged can be changed while it is in use.
func newLogger(w io.Writer, s settings) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(logLevel(s.verbosity))
	options := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
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

func logWarnings(log *slog.Logger, warnings []warning) {
	for _, w := range warnings {
		args := []any{"setting", w.setting}
		if w.file != "" {
			args = append(args, "file", w.file)
		}
		log.Warn(w.what, args...)
	}
}

// runWhileFollowing runs until ctx ends, or until a changed file asks for something that takes a new start: then anew is
// true, and everything has ended cleanly.
func runWhileFollowing(ctx context.Context, s settings, changed <-chan edition, level *slog.LevelVar,
	log *slog.Logger) (anew bool, err error) {
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan bool, 1)
	go func() {
		ended <- follow(running, s, changed, level, log)
		cancel()
	}()
	err = run(running, s, log)
	cancel()
	return <-ended && ctx.Err() == nil, err
}

// follow applies what can change while running. It returns true when something else changed, and false when ctx ends.
func follow(ctx context.Context, s settings, changed <-chan edition, level *slog.LevelVar, log *slog.Logger) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case next := <-changed:
			live, restart := reload(s, next.settings)
			if len(restart) > 0 {
				log.Info("starting anew for a changed configuration", "file", s.configFile, "settings", restart)
				return true // what there is to warn of is said then
			}
			logWarnings(log, next.warnings)
			if live.verbosity != s.verbosity {
				log.Info("changed", "file", s.configFile, "setting", "logging.verbosity", "value", live.verbosity)
			}
			level.Set(logLevel(live.verbosity))
			s = live
		}
	}
}
