package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/urfave/cli/v2"

	"nfproxy/render"
	"nfproxy/watcher"
)

func runCommand() *cli.Command {
	flag := func(name, usage string) *cli.StringFlag {
		return &cli.StringFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}}
	}
	return &cli.Command{
		Name:  "run",
		Usage: "program the Services of a directory of manifests, and follow its changes",
		Description: "On SIGTERM or SIGINT it ends and leaves the rules: connections go on, and new ones still find\n" +
			"the Services as they were. nfproxy cleanup removes them.",
		Flags: []cli.Flag{
			flag("manifests", "`DIR` with Services, EndpointSlices and Nodes as YAML or JSON files"),
			flag("hostname-override", "`NAME` of this node in the manifests (default: the host name)"),
			flag("cluster-cidr", "`CIDR[,CIDR]` of the pods, one per family: connections from elsewhere are masqueraded"),
			flag("service-cidr", "`CIDR[,CIDR...]` cluster IPs come from: what no Service has of them is dropped"),
			flag("nodeport-addresses", "`CIDR[,CIDR...]` that hold the interface addresses node ports are served at (default: primary, "+
				"the Node's InternalIPs)"),
			flag("detect-local-mode", "how pods are told: ClusterCIDR by --cluster-cidr, NodeCIDR by the Node's podCIDRs, BridgeInterface or\n"+
				"InterfaceNamePrefix by the interface their packets come in by (default: ClusterCIDR)"),
			flag("pod-bridge-interface", "`NAME` of the bridge pods are on, for BridgeInterface"),
			flag("pod-interface-name-prefix", "`PREFIX` of the names of pods' interfaces, for InterfaceNamePrefix"),
			&cli.BoolFlag{Name: "masquerade-all", Usage: "masquerade all connections to cluster IPs",
				EnvVars: []string{envVar("masquerade-all")}},
			&cli.IntFlag{Name: "v", Usage: "`LEVEL` of the log: 0 tells what went wrong and what it does, 4 each change",
				EnvVars: []string{envVar("v")}},
		},
		Before: noArguments,
		Action: func(c *cli.Context) error {
			node, err := nodeFromFlags(c)
			if err != nil {
				return err
			}
			nodePorts, err := parseNodePortAddresses(c.String("nodeport-addresses"))
			if err != nil {
				return fmt.Errorf("--nodeport-addresses: %w", err)
			}
			return run(c.Context, c.String("manifests"), node, nodePorts, logger(c))
		},
	}
}

// run follows a directory until ctx ends. Node ports are served at the interface addresses inside nodePorts, or, without
// them, at the addresses of the Node object.
func run(ctx context.Context, dir string, node render.Node, nodePorts []netip.Prefix, log *slog.Logger) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	src, err := watcher.NewDir(dir, node, log)
	if err != nil {
		return err
	}
	defer src.Close()
	next := src.Next
	if len(nodePorts) > 0 {
		addresses, err := watcher.NewAddresses(nodePorts, log)
		if err != nil {
			return err
		}
		defer addresses.Close()
		joined := watcher.NewAddressSource(next, addresses)
		defer joined.Close()
		next = joined.Next
	}
	log.Info("nfproxy starts", "version", version, "node", node.Name, "manifests", dir)
	watch, err := k.Watch(render.Tables()...)
	if err != nil {
		return err
	}
	defer watch.Close()
	p := proxy{next: next, watch: watch, kernel: k, ruleset: render.NewRuleset(node), log: log}
	servers := newHealthServers(p.known.Load, log)
	defer servers.Close()
	p.health = newHealthChecks(servers.Set)
	err = p.run(ctx)
	log.Info("nfproxy ends; its rules stay")
	return err
}
