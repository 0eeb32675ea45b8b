package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/config"
	"nfproxy/render"
	"nfproxy/watcher"
)

// snapshotTimeout is how long a source of Services may take to list them.
const snapshotTimeout = 15 * time.Second

// namesSource reports whether flags or the environment name a source of Services.
func namesSource(c *cli.Context) bool {
	return c.IsSet("manifests") || c.IsSet("kubeconfig") || c.IsSet("master") || c.IsSet("config")
}

// desiredState returns a snapshot of the source of Services that `nfproxy run` would follow with the same flags.
func desiredState(c *cli.Context) (render.Update, error) {
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{Level: slog.LevelWarn}))
	file, err := configFile(c)
	if err != nil {
		return render.Update{}, err
	}
	set, warnings, err := config.FromCLI(c, file)
	logWarnings(log, warnings)
	if err != nil {
		return render.Update{}, err
	}
	ctx, cancel := context.WithTimeout(c.Context, snapshotTimeout)
	defer cancel()
	u, err := watcher.Snapshot(ctx, set, c.App.Version, log)
	if errors.Is(err, context.DeadlineExceeded) {
		return u, fmt.Errorf("the source of Services did not list them within %s", snapshotTimeout)
	}
	return u, err
}
