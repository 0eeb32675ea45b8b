package watcher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"nfproxy/config"
	"nfproxy/render"
)

// Source provides the Services and the facts about the node, from an API server or from a directory of manifests.
type Source struct {
	// Name is the path of the directory or the URL of the API server.
	Name string
	// Node describes this machine by the settings and by its kernel. The Node of each Update adds the facts of the source.
	Node render.Node
	// Server is the client configuration of the API server, nil for a directory.
	Server *rest.Config

	next    func(context.Context) (render.Update, error)
	closers []func() error // in the order of opening
}

// Open opens the source that the settings name. Interface addresses are those of the calling thread's network namespace.
// version is the version of nfproxy, for the user agent of requests to the API server.
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

// Next blocks until something has changed and returns the changes. Its first call returns the complete state.
func (s *Source) Next(ctx context.Context) (render.Update, error) { return s.next(ctx) }

// Close closes the source. A pending or later Next returns an error that wraps os.ErrClosed.
func (s *Source) Close() error {
	var errs []error
	for _, c := range slices.Backward(s.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// Snapshot returns the complete state of the source that the settings name: what a daemon with these settings would program
// when it starts.
func Snapshot(ctx context.Context, set config.Settings, version string, log *slog.Logger) (u render.Update, err error) {
	s, err := Open(set, version, log)
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Next(ctx)
}

func (s *Source) open(set config.Settings, version string, log *slog.Logger) error {
	interfaces, err := followInterfaces(s.Node.IPv4Only, log)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, interfaces.close)
	ranges := set.NodePorts.Ranges()
	nodePorts := nodePortAddresses{
		primaryIP:  set.PrimaryIP,
		ranges:     ranges,
		rangesOnly: len(ranges) > 0 && !set.NodePorts.Primary,
		interfaces: interfaces,
	}
	if set.Manifests != "" {
		return s.openDir(set, nodePorts, log)
	}
	return s.openAPI(set, nodePorts, version, log)
}

func (s *Source) openDir(set config.Settings, nodePorts nodePortAddresses, log *slog.Logger) error {
	dir, err := newDir(set.Manifests, s.Node, nodePorts, log)
	if err != nil {
		return err
	}
	s.Name, s.next = set.Manifests, dir.Next
	s.closers = append(s.closers, dir.Close)
	return nil
}

func (s *Source) openAPI(set config.Settings, nodePorts nodePortAddresses, version string, log *slog.Logger) error {
	// Without a kubeconfig file and a master address this uses the service account of the Pod.
	server, err := clientcmd.BuildConfigFromFlags(set.Master, set.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig %s: %w", set.Kubeconfig, err)
	}
	server.UserAgent = "nfproxy/" + version
	if nodePorts.defaultRoutes, err = openDefaultRoutes(s.Node.IPv4Only); err != nil {
		return err
	}
	s.closers = append(s.closers, nodePorts.defaultRoutes.close)
	api, err := newAPI(server, s.Node, nodePorts, newPace(), log)
	if err != nil {
		return err
	}
	s.Name, s.Server, s.next = server.Host, server, api.Next
	s.closers = append(s.closers, api.Close)
	return nil
}

// hasIPv6 reports whether the kernel has IPv6. The file exists even if IPv6 is disabled on all interfaces.
func hasIPv6(root string) bool {
	_, err := os.Stat(filepath.Join(root, "proc/self/net/if_inet6"))
	return !errors.Is(err, fs.ErrNotExist)
}
