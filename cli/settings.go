package cli

import (
	"io"
	"log/slog"
	"os"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
)

// configFile returns the content of the file that --config names, nil if it names none.
func configFile(c *cli.Context) ([]byte, error) {
	if path := c.String("config"); path != "" {
		return os.ReadFile(path)
	}
	return nil, nil
}

// newLogger returns the logger that the settings ask for, and its level, which can be changed later.
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
