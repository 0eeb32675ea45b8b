package watcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"nfproxy/config"
	"nfproxy/render"
)

// Source is where Services come from: an API server or a directory of manifests, joined with what the node's kernel knows
// about its addresses.
type Source struct {
	// Name is the directory or the API server's URL.
	Name string
	// Node has the facts about the node that the settings and its kernel give; what the source says of the Node is added
	// with each Update.
	Node render.Node
	// Server is how the API server is reached, nil for a directory.
	Server *rest.Config

	next    func(context.Context) (render.Update, error)
	closers []func() error // in the order in which they were opened
}

// Open opens the source that the settings ask for, in the network namespace of the calling thread. version is nfproxy's,
// which an API server is told.
func Open(set config.Settings, version string, log *slog.Logger) (*Source, error) {
	set.Node.IPv4Only = !hasIPv6("/")
	if set.Node.IPv4Only {
		log.Warn("the kernel has no IPv6: there are no rules for it")
	}
	s := &Source{Node: set.Node}
	if err := s.open(set, version, log); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Next blocks until something changed. Its first call returns everything.
func (s *Source) Next(ctx context.Context) (render.Update, error) { return s.next(ctx) }

// Close closes the source.
func (s *Source) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// Snapshot returns everything that the source of the settings says now: what a daemon with these settings would program at
// its start.
func Snapshot(ctx context.Context, set config.Settings, version string, log *slog.Logger) (u render.Update, err error) {
	s, err := Open(set, version, log)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Next(ctx)
}

func (s *Source) open(set config.Settings, version string, log *slog.Logger) error {
	openServices := s.openAPI
	if set.Manifests != "" {
		openServices = s.openDir
	}
	if err := openServices(set, version, log); err != nil {
		return err
	}
	if set.PrimaryIP.IsValid() {
		s.next = withPrimaryIP(s.next, set.PrimaryIP)
	}
	if len(set.NodePorts) == 0 {
		return nil
	}
	addresses, err := NewAddresses(set.NodePorts, log)
	if err != nil {
		return err
	}
	joined := NewAddressSource(s.next, addresses)
	s.next = joined.Next
	s.closers = append(s.closers, addresses.Close, joined.Close)
	return nil
}

func (s *Source) openDir(set config.Settings, _ string, log *slog.Logger) error {
	dir, err := NewDir(set.Manifests, s.Node, log)
	if err != nil {
		return err
	}
	s.Name, s.next = set.Manifests, dir.Next
	s.closers = append(s.closers, dir.Close)
	return nil
}

func (s *Source) openAPI(set config.Settings, version string, log *slog.Logger) error {
	// By a kubeconfig file, or as a Pod of the cluster.
	server, err := clientcmd.BuildConfigFromFlags(set.Master, set.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", set.Kubeconfig, err)
	}
	server.UserAgent = "nfproxy/" + version
	api, err := NewAPI(server, s.Node, log)
	if err != nil {
		return err
	}
	s.Name, s.Server, s.next = server.Host, server, api.Next
	s.closers = append(s.closers, api.Close)
	return nil
}

// hasIPv6 reports whether the kernel has IPv6. The file exists even if IPv6 is switched off for all interfaces.
func hasIPv6(root string) bool {
	_, err := os.Stat(filepath.Join(root, "proc/self/net/if_inet6"))
	return !errors.Is(err, fs.ErrNotExist)
}

// withPrimaryIP replaces the node's address of addr's family by addr.
func withPrimaryIP(next func(context.Context) (render.Update, error), addr netip.Addr) func(context.Context) (render.Update, error) {
	return func(ctx context.Context) (render.Update, error) {
		u, err := next(ctx)
		others := slices.DeleteFunc(slices.Clone(u.Node.Addresses), func(a netip.Addr) bool { return a.Is4() == addr.Is4() })
		u.Node.Addresses = append(others, addr)
		slices.SortFunc(u.Node.Addresses, netip.Addr.Compare)
		return u, err
	}
}
