package agent

import (
	"context"
	"log/slog"

	"nfproxy/config"
	"nfproxy/render"
)

// Look returns everything that the source of the settings says now, with what this machine adds to it: what Run would
// program at its start. version is told to an API server.
func Look(ctx context.Context, set config.Settings, version string, log *slog.Logger) (render.Update, error) {
	set.Node = withMachine("/", set.Node, log)
	src, err := openSource(set, version, log)
	if err != nil {
		return render.Update{}, err
	}
	defer src.close()
	return src.next(ctx)
}
