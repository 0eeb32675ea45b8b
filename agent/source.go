package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"nfproxy/config"
	"nfproxy/render"
	"nfproxy/watcher"
)

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

// openSource opens the source that the settings ask for, with the addresses that node ports are served at. An API server is
// told the version.
func openSource(set config.Settings, version string, log *slog.Logger) (*source, error) {
	s := &source{}
	if err := s.open(set, version, log); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *source) open(set config.Settings, version string, log *slog.Logger) error {
	var err error
	if set.Manifests != "" {
		err = s.openDir(set, log)
	} else {
		err = s.openAPI(set, version, log)
	}
	if err != nil {
		return err
	}
	if set.PrimaryIP.IsValid() {
		s.next = withPrimaryIP(s.next, set.PrimaryIP)
	}
	if len(set.NodePorts) == 0 {
		return nil
	}
	addresses, err := watcher.NewAddresses(set.NodePorts, log)
	if err != nil {
		return err
	}
	joined := watcher.NewAddressSource(s.next, addresses)
	s.next = joined.Next
	s.closers = append(s.closers, func() { addresses.Close() }, func() { joined.Close() })
	return nil
}

func (s *source) openDir(set config.Settings, log *slog.Logger) error {
	dir, err := watcher.NewDir(set.Manifests, set.Node, log)
	if err != nil {
		return err
	}
	s.name, s.next = set.Manifests, dir.Next
	s.closers = append(s.closers, func() { dir.Close() })
	return nil
}

func (s *source) openAPI(set config.Settings, version string, log *slog.Logger) error {
	server, err := clientConfig(set, version)
	if err != nil {
		return err
	}
	api, err := watcher.NewAPI(server, set.Node, log)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() { api.Close() })
	if s.events, err = newEvents(server, set.Node.Name, log); err != nil {
		return err
	}
	s.closers = append(s.closers, s.events.Close)
	s.name, s.next = server.Host, api.Next
	return nil
}

// clientConfig says how to reach the API server: by a kubeconfig file, or as a pod of the cluster.
func clientConfig(set config.Settings, version string) (*rest.Config, error) {
	server, err := clientcmd.BuildConfigFromFlags(set.Master, set.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", set.Kubeconfig, err)
	}
	server.UserAgent = "nfproxy/" + version
	return server, nil
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
