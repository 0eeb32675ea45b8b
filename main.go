// Command nfproxy turns Kubernetes Services into nftables: it is a service proxy that needs nothing of the node but the
// kernel. See README.md and docs/architecture.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"nfproxy/cli"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "unknown"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := cli.Main(ctx, version, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
