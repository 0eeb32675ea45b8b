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

// askPatience is how long a source of Services has to tell what there is.
const askPatience = 15 * time.Second

// namesSource says whether flags or the environment name a source of Services.
func namesSource(c *cli.Context) bool {
	return c.IsSet("manifests") || c.IsSet("kubeconfig") || c.IsSet("master") || c.IsSet("config")
}

// ask asks the source of Services that the flags name, as run would, what there is.
func ask(c *cli.Context) (render.Update, error) {
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
	ctx, cancel := context.WithTimeout(c.Context, askPatience)
	defer cancel()
	u, err := watcher.Snapshot(ctx, set, c.App.Version, log)
	if errors.Is(err, context.DeadlineExceeded) {
		return u, fmt.Errorf("the source of Services has not told what there is within %s", askPatience)
	}
	return u, err
}
