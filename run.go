package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
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
	p := proxy{next: next, kernel: k, ruleset: render.NewRuleset(node), log: log}
	servers := newHealthServers(p.known.Load, log)
	defer servers.Close()
	p.health = newHealthChecks(servers.Set)
	err = p.run(ctx)
	log.Info("nfproxy ends; its rules stay")
	return err
}

// proxy is the whole of it: what a source says has changed becomes changes of the kernel's tables.
type proxy struct {
	// next blocks until something changed. The first call returns everything.
	next    func(context.Context) (render.Update, error)
	kernel  *kernel.Conn
	ruleset *render.Ruleset
	log     *slog.Logger
	// committed, if not nil, is told of every commit.
	committed func(commit)
	// health, if not nil, answers load balancers.
	health *healthChecks

	known   atomic.Bool // what is in the kernel is what ruleset thinks; health servers read it
	backoff time.Duration
}

// commit is what a commit was made of.
type commit struct {
	operations int // elements added and deleted
	took       time.Duration
}

// Bounds of the time between attempts when the kernel refuses or cannot be read.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// run works until ctx ends, which is no error.
func (p *proxy) run(ctx context.Context) error {
	for started := false; ; {
		update, err := p.wait(ctx, started && !p.known.Load())
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded): // time to try again
		case err != nil:
			return err
		default:
			started = true
			p.take(update)
		}
		if err := p.program(); err != nil {
			p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
			p.log.Error("could not program the kernel; the rules are as they were", "error", err, "retry", p.backoff)
		} else {
			p.backoff = 0
			p.health.programmed()
		}
	}
}

// wait returns the next update. When the last attempt to program failed it waits no longer than the backoff.
func (p *proxy) wait(ctx context.Context, failed bool) (render.Update, error) {
	if failed {
		limited, cancel := context.WithTimeout(ctx, p.backoff)
		defer cancel()
		ctx = limited
	}
	return p.next(ctx)
}

// take hands an update to the ruleset and the health checks and tells what follows from it.
func (p *proxy) take(u render.Update) {
	p.health.take(u)
	for _, c := range p.ruleset.Update(u) {
		p.log.Warn("conflict", "frontend", c.Address, "protocol", c.Protocol, "owner", c.Winner, "refused", c.Loser)
	}
	if !p.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, name := range u.Removed {
		p.log.Debug("Service removed", "service", name)
	}
	for _, s := range u.Services {
		for _, port := range s.Ports {
			for _, addr := range s.ClusterIPs {
				selected := render.Select(u.Node, port, render.Family(addr))
				p.log.Debug("Service changed", "service", s.ServiceName, "port", port.Name, "frontend",
					netip.AddrPortFrom(addr, port.Port), "endpoints", len(selected.Cluster), "why", selected.WhyCluster)
			}
		}
	}
}

// program brings the kernel to where the ruleset is: by what changed, or, when what the kernel has is not known, by
// reading it and sending the difference.
func (p *proxy) program() error {
	if p.known.Load() {
		start := time.Now()
		changes := p.ruleset.Changes()
		err := p.kernel.Apply(changes, 0)
		if err == nil {
			p.report(changes, start)
			return nil
		}
		p.known.Store(false)
		p.log.Warn("a change was refused; reading the tables again", "error", err)
	}
	return p.reconcile()
}

// reconcileAttempts is how often reconcile reads anew when somebody else commits between its reading and its writing.
// After that it writes regardless: others have no business in our tables, so most likely it was about theirs.
const reconcileAttempts = 3

func (p *proxy) reconcile() error {
	for attempt := 1; ; attempt++ {
		start := time.Now()
		have, generation, err := p.kernel.Read(render.Tables()...)
		if err != nil {
			return err
		}
		if attempt > reconcileAttempts {
			generation = 0
		}
		changes := p.ruleset.Reconcile(have)
		err = p.kernel.Apply(changes, generation)
		if errors.Is(err, kernel.ErrMoved) {
			continue
		}
		if err != nil {
			return err
		}
		p.known.Store(true)
		p.log.Info("in sync", "operations", nft.ElementOperations(changes), "took", time.Since(start).Round(time.Microsecond))
		p.report(changes, start)
		return nil
	}
}

func (p *proxy) report(changes []nft.Change, start time.Time) {
	if len(changes) == 0 {
		return
	}
	c := commit{nft.ElementOperations(changes), time.Since(start)}
	p.log.Debug("committed", "operations", c.operations, "took", c.took)
	if p.committed != nil {
		p.committed(c)
	}
}
