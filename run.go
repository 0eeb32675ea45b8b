package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/watcher"
)

// run follows Services until ctx ends, by the settings.
func run(ctx context.Context, set settings, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	watch, err := k.Watch(render.Tables()...)
	if err != nil {
		return err
	}
	defer watch.Close()
	flows, err := kernel.OpenFlows()
	if err != nil {
		return err
	}
	defer flows.Close()
	metrics := newMetrics()
	metrics.watchClients()
	src, err := openSource(set, log)
	if err != nil {
		return err
	}
	defer src.close()
	log.Info("nfproxy starts", "version", version, "node", set.node.Name, "source", src.name)
	setUpMachine("/", set, log)

	p := proxy{next: src.next, kernel: k, watch: watch, ruleset: render.NewRuleset(set.node), log: log,
		pace: pace{minSync: set.minSyncPeriod}, events: src.events}
	p.flows = newSweeper(flows, log, metrics.swept)
	defer p.flows.Close()
	balancers := newHealthServers(p.known.Load, src.events, log)
	defer balancers.Close()
	p.health = newHealthChecks(balancers.Set)
	p.metrics, p.status = metrics, newNodeHealth()
	servers, err := newServers(set, metrics, p.status, configz(set), src.events.serverFailed, log)
	if err != nil {
		return err
	}
	defer servers.Close()
	src.events.started()
	err = runUntil(ctx, servers.Err(), p.run)
	log.Info("nfproxy ends; its rules stay")
	return err
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

// configz is the configuration in use as /configz shows it.
func configz(set settings) any {
	set.effective.APIVersion, set.effective.Kind = kubeproxy.SchemeGroupVersion.String(), "KubeProxyConfiguration"
	return set.effective
}

// source is where Services come from.
type source struct {
	name   string
	next   func(context.Context) (render.Update, error)
	events *events // nil where nobody would read them
	// closers are called in the opposite order.
	closers []func()
}

func (s *source) close() {
	for _, c := range slices.Backward(s.closers) {
		c()
	}
}

// openSource opens the source that the settings ask for, with the addresses that node ports are served at.
func openSource(set settings, log *slog.Logger) (*source, error) {
	s := &source{}
	if err := s.open(set, log); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *source) open(set settings, log *slog.Logger) error {
	var err error
	if set.manifests != "" {
		err = s.openDir(set, log)
	} else {
		err = s.openAPI(set, log)
	}
	if err != nil {
		return err
	}
	if set.primaryIP.IsValid() {
		s.next = withPrimaryIP(s.next, set.primaryIP)
	}
	if len(set.nodePorts) == 0 {
		return nil
	}
	addresses, err := watcher.NewAddresses(set.nodePorts, log)
	if err != nil {
		return err
	}
	joined := watcher.NewAddressSource(s.next, addresses)
	s.next = joined.Next
	s.closers = append(s.closers, func() { addresses.Close() }, func() { joined.Close() })
	return nil
}

func (s *source) openDir(set settings, log *slog.Logger) error {
	dir, err := watcher.NewDir(set.manifests, set.node, log)
	if err != nil {
		return err
	}
	s.name, s.next = set.manifests, dir.Next
	s.closers = append(s.closers, func() { dir.Close() })
	return nil
}

func (s *source) openAPI(set settings, log *slog.Logger) error {
	config, err := clientConfig(set)
	if err != nil {
		return err
	}
	api, err := watcher.NewAPI(config, set.node, log)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { api.Close() })
	if s.events, err = newEvents(config, set.node.Name, log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.events.Close)
	s.name, s.next = config.Host, api.Next
	return nil
}

// clientConfig says how to reach the API server: by a kubeconfig file, or as a pod of the cluster.
func clientConfig(set settings) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags(set.master, set.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", set.kubeconfig, err)
	}
	config.UserAgent = "nfproxy/" + version
	return config, nil
}

// withPrimaryIP replaces the node's address of the family of addr by addr.
func withPrimaryIP(next func(context.Context) (render.Update, error), addr netip.Addr) func(context.Context) (render.Update, error) {
	return func(ctx context.Context) (render.Update, error) {
		u, err := next(ctx)
		others := slices.DeleteFunc(slices.Clone(u.Node.Addresses), func(a netip.Addr) bool { return a.Is4() == addr.Is4() })
		u.Node.Addresses = append(others, addr)
		slices.SortFunc(u.Node.Addresses, netip.Addr.Compare)
		return u, err
	}
}
