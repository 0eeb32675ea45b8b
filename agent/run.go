package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"nfproxy/agent/health"
	"nfproxy/agent/localhost"
	"nfproxy/agent/metrics"
	"nfproxy/config"
	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nft/kernel"
	"nfproxy/preflight"
	"nfproxy/render"
	"nfproxy/report"
	"nfproxy/watcher"
)

// Run keeps the network namespace of the calling thread as the settings ask for, until ctx ends, which is no error. It returns
// an error if a part of the daemon cannot start, or if one ends early. version is nfproxy's, for Events, metrics and the API
// server.
//
// Run claims the guard, which remains claimed when Run returns. While another daemon has it, Run changes nothing and waits.
func Run(ctx context.Context, set config.Settings, version string, guard *Guard, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	var l lifecycle
	if err := assemble(&l, set, version, guard, log); err != nil {
		return errors.Join(err, l.close())
	}
	err := l.run(ctx)
	log.Info("nfproxy ends; its rules stay")
	return err
}

// assemble opens the daemon's parts, connects them and adds them to the life cycle. Opening the tables comes first: without
// the right to change them nothing else makes sense.
func assemble(l *lifecycle, set config.Settings, version string, guard *Guard, log *slog.Logger) error {
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	l.owns(k)
	k.CounterKey = render.CounterKey
	if err := k.FollowReferences(report.Slots(set.Node.Instance), kernel.ManyElements, report.SlotSets(set.Node.Instance)...); err != nil {
		return err
	}
	recorder := metrics.New(version)
	recorder.WatchClients() // before the source starts its clients
	src, err := watcher.Open(set, version, log)
	if err != nil {
		return err
	}
	l.owns(src)
	set.Node = src.Node
	monitor, err := k.Monitor(set.Node.Instance.TableIDs()...)
	if err != nil {
		return err
	}
	monitor.NameElements(set.Node.Instance.RestorableSets()...)
	l.owns(monitor)
	logShortcomings(preflight.Here(set.Node.Instance).Essential(), log)
	told, err := openEvents(l, src, log)
	if err != nil {
		return err
	}
	log.Info("nfproxy starts", startAttributes(version, set.Node, src)...)

	d := newDaemon(src.Next, k, monitor, set.Node, log)
	d.throttle.minSync = set.MinSyncPeriod
	node := health.NewNode(set.Node.IPv4Only)
	claimGuard(d, guard, node, set, told)
	d.startTasks(l)
	d.observers = append(d.observers, newReports(log, told, recorder.NotServed).observer())
	if err := addConntrackCleaner(l, d, set.ResetGoneEndpoints, recorder); err != nil {
		return err
	}
	if err := addMetrics(l, d, set, recorder); err != nil {
		return err
	}
	if err := addHealth(l, d, set, version, node, recorder, told); err != nil {
		return err
	}
	addLocalhost(l, d, set.Node, recorder, told)
	told.started(version)
	return nil
}

// startAttributes returns what the daemon logs about itself when it starts.
func startAttributes(version string, n render.Node, src *watcher.Source) []any {
	all := []any{"version", version, "node", n.Name, "source", src.Name}
	if name := n.Instance.Name(); name != "" {
		all = append(all, "serviceProxyName", name)
	}
	return all
}

// openEvents returns where Events go: to the API server, or nowhere if Services come from a directory.
func openEvents(l *lifecycle, src *watcher.Source, log *slog.Logger) (*events, error) {
	if src.Server == nil {
		return nil, nil
	}
	e, err := newEvents(src.Server, src.Node, log)
	if err != nil {
		return nil, err
	}
	l.owns(e)
	return e, nil
}

// logShortcomings logs what this node lacks, as `nfproxy check` reports it. The daemon starts nevertheless: a kernel module can
// still be loaded. Without CAP_SYS_ADMIN the kernel cannot be probed; what it lacks is then logged when it refuses rules.
func logShortcomings(lines []preflight.Line, log *slog.Logger) {
	for _, l := range lines {
		if l.Level == preflight.Problem {
			log.Error("this node lacks something that the rules need", "check", l.Check, "finding", l.Finding, "advice", l.Advice)
		}
	}
}

// addConntrackCleaner adds the cleaner of stale conntrack entries. goneDelay is that of config.Settings.ResetGoneEndpoints.
func addConntrackCleaner(l *lifecycle, d *daemon, goneDelay time.Duration, recorder *metrics.Recorder) error {
	flows, err := ctnetlink.Open()
	if err != nil {
		return err
	}
	l.owns(flows)
	cleaner := newConntrackCleaner(flows, d.log, recorder.ConntrackCleaned)
	if goneDelay > 0 {
		recorder.CountResets()
		cleaner.resetGoneEndpoints(goneDelay, recorder.ConnectionsReset, looseTCP)
	}
	l.runs("conntrack cleaner", cleaner.run)
	d.observers = append(d.observers, observer{
		updated: func(u render.Update) { cleaner.Take(u, d.ruleset.Owner) },
		committed: func(c commit) {
			if c.full || c.repaired { // rules may have been missing, and connections may have begun without them
				if flows, ok := d.ruleset.UntranslatedFlows(c.changes); ok {
					cleaner.DeleteUntranslated(flows)
				}
			}
			cleaner.Programmed(c.changes)
		},
	})
	return nil
}

// addMetrics adds the recorder of metrics and the connection that it reads counters by.
func addMetrics(l *lifecycle, d *daemon, set config.Settings, recorder *metrics.Recorder) error {
	counters, err := kernel.Open()
	if err != nil {
		return err
	}
	l.owns(counters)
	recorder.CountConnections(set.Node.Counters, readCounters(counters, set.Node))
	d.observers = append(d.observers, observer{
		updated:  recorder.Updated,
		compared: recorder.Compared,
		failed:   recorder.Failed,
		committed: func(c commit) {
			if c.repaired {
				recorder.Repaired()
			}
			recorder.Committed(metrics.Round{Operations: c.operations(), Took: c.took, Seen: c.seen, Triggered: c.triggered, Full: c.full})
			recorder.Services(c.services)
			recorder.Quarantined(c.quarantined)
			recorder.Conflicts(c.contested)
		},
	})
	return nil
}

// readCounters returns a function that reads the counters of all Services, for one caller at a time.
func readCounters(k *kernel.Conn, n render.Node) func() (report.Description, error) {
	var one sync.Mutex
	return func() (report.Description, error) {
		one.Lock()
		defer one.Unlock()
		tables, err := k.ReadSets(report.CountedSets(n.Counters), n.Instance.TableIDs()...)
		return report.Describe(tables), err
	}
}

// addHealth adds the health check node ports of Services, the node's own health, and the HTTP servers.
func addHealth(l *lifecycle, d *daemon, set config.Settings, version string, node *health.Node, recorder *metrics.Recorder, told *events) error {
	ports := health.NewServicePorts(node.Healthy, told.healthCheckFailed, d.log)
	l.owns(closing(func() error { ports.Close(); return nil }))
	checks := health.NewChecks(ports.Set)
	d.observers = append(d.observers, observer{
		updated: func(u render.Update) {
			checks.Take(u)
			node.Queued(time.Now())
			node.SetEligible(!u.NotEligible)
		},
		disturbed: func() { node.Queued(time.Now()) },
		committed: func(commit) {
			checks.Programmed()
			node.Programmed(time.Now())
		},
	})
	servers, err := health.NewServers(set, version, recorder, node, health.Configz(set), told.serverFailed, d.log)
	if err != nil {
		return err
	}
	l.owns(closing(func() error { servers.Close(); return nil }))
	l.runs("HTTP server", func(ctx context.Context) error {
		select {
		case err := <-servers.Err():
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return nil
}

// addLocalhost adds the listeners of node ports at loopback addresses, if the settings ask for them.
func addLocalhost(l *lifecycle, d *daemon, n render.Node, recorder *metrics.Recorder, told *events) {
	if len(n.Loopback) == 0 {
		return
	}
	ports := localhost.NewPorts(localhost.Hooks{Report: told.localhostFailed, Failed: recorder.LocalhostListenFailed}, d.log)
	l.owns(closing(func() error { ports.Close(); return nil }))
	recorder.ServeLocalhost(ports.Open)
	d.observers = append(d.observers, observer{
		updated:   ports.Take,
		committed: func(commit) { ports.Programmed() },
	})
}
