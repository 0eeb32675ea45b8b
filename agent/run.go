package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"nfproxy/agent/metrics"
	"nfproxy/watcher"

	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/preflight"

	"nfproxy/conntrack/ctnetlink"

	"nfproxy/report"

	"nfproxy/agent/health"
)

// Run follows Services until ctx ends, by the settings, in the network namespace of the calling thread. It returns an
// error if it cannot begin, or if something ends that it must not go on without. version is nfproxy's, which it tells.
func Run(ctx context.Context, set config.Settings, version string, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	src, err := watcher.Open(set, version, log)
	if err != nil {
		return err
	}
	defer src.Close()
	set.Node = src.Node
	watch, err := k.Monitor(render.TableIDs()...)
	if err != nil {
		return err
	}
	defer watch.Close()
	if guard, err := OpenGuard(families(set.Node)...); err != nil {
		log.Warn("open connections can break while others flush the ruleset: the kernel keeps no table of ours", "error", err)
	} else {
		defer guard.Close()
	}
	flows, err := ctnetlink.Open()
	if err != nil {
		return err
	}
	defer flows.Close()
	tellWhatIsMissing(preflight.Here().Essential(), log)
	recorder := metrics.New(version)
	recorder.WatchClients()
	var told *events
	if src.Server != nil {
		if told, err = newEvents(src.Server, set.Node.Name, log); err != nil {
			return err
		}
		defer told.Close()
	}
	log.Info("nfproxy starts", "version", version, "node", set.Node.Name, "source", src.Name)
	setUpMachine("/", set, log)

	p := daemon{next: src.Next, kernel: k, watch: watch, ruleset: render.NewRuleset(set.Node), log: log,
		pace: throttle{minSync: set.MinSyncPeriod}, events: told}
	p.flows = newConntrackCleaner(flows, log, recorder.Swept)
	defer p.flows.Close()
	balancers := health.NewServicePorts(p.known.Load, told.healthCheckFailed, log)
	defer balancers.Close()
	p.health = health.NewChecks(balancers.Set)
	p.metrics, p.status = recorder, health.NewNode()
	counters, err := kernel.Open()
	if err != nil {
		return err
	}
	defer counters.Close()
	recorder.CountConnections(set.Node.Counters, readCounters(counters, set.Node.Counters))
	servers, err := health.NewServers(set, recorder, p.status, health.Configz(set), told.serverFailed, log)
	if err != nil {
		return err
	}
	defer servers.Close()
	told.started(version)
	err = runUntil(ctx, servers.Err(), p.run)
	log.Info("nfproxy ends; its rules stay")
	return err
}

func families(n render.Node) []nft.Family {
	if n.IPv4Only {
		return []nft.Family{nft.IPv4}
	}
	return []nft.Family{nft.IPv4, nft.IPv6}
}

// readCounters returns what reads the counters of all Services, for one caller at a time.
func readCounters(k *kernel.Conn, by render.Counters) func() (report.Description, error) {
	var one sync.Mutex
	return func() (report.Description, error) {
		one.Lock()
		defer one.Unlock()
		tables, err := k.ReadSets(report.CountedSets(by), render.TableIDs()...)
		return report.Describe(tables), err
	}
}

// runUntil runs until ctx ends or an error comes that it must end by.
func runUntil(ctx context.Context, failed <-chan error, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fatal := make(chan error, 1)
	go func() {
		select {
		case err := <-failed:
			fatal <- err
			cancel()
		case <-ctx.Done():
		}
	}()
	err := run(ctx)
	select {
	case err := <-fatal:
		return err
	default:
		return err
	}
}

// Follow programs what next says through the kernel until ctx ends, which is no error, or next fails. next blocks until
// something changed; its first call returns everything. committed is told of every commit. This is the loop of Run and
// nothing around it: what others do to the tables is not undone, nobody is told of health, no flow is swept.
func Follow(ctx context.Context, next func(context.Context) (render.Update, error), k *kernel.Conn, node render.Node,
	log *slog.Logger, committed func(Commit)) error {
	p := daemon{next: next, kernel: k, ruleset: render.NewRuleset(node), log: log, committed: committed}
	return p.run(ctx)
}

// Commit is what a commit was made of.
type Commit struct {
	Operations int           // elements added and deleted
	Took       time.Duration // from the first look at what is to be done to the kernel having it
	// Seen is when the first of the changes reached this machine, zero for one that did not come from a source;
	// Triggered when they happened in the cluster.
	Seen      time.Time
	Triggered []time.Time
}
