// Command nfproxy turns Kubernetes Services into nftables: it is a service proxy that needs nothing of the node but the
// kernel. See README.md and docs/architecture.md.
package main

import (
	"os"

	"nfproxy/cli"
)

// version is set by the linker: -ldflags "-X main.version=v1.2.3".
var version = "unknown"

func main() {
	os.Exit(cli.Main(version, os.Args, os.Stdout, os.Stderr))
}
