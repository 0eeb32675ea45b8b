//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"nfproxy/integration/machine"
	"nfproxy/sandbox"
)

// soak is a run: its parts and the files that it writes.
type soak struct {
	options
	log     io.Writer
	network *sandbox.Network
	state   string // directory of the manifests and the configuration, removed at the end
	files   []*os.File

	daemon  *daemon
	changer *changer
	clients *clients
	flows   *flows
	foreign *foreign
	sampler *sampler
}

// result is the outcome of a run.
type result struct {
	Wrong   []string // what does not hold, one sentence each
	Summary summary
}

// run runs the soak in the current network namespace, which must be a sandbox.
func run(ctx context.Context, o options, log io.Writer) (result, error) {
	s := &soak{options: o, log: log}
	begun, revision := time.Now(), machine.Commit() // of the start, in case the working tree changes
	err := s.prepare(ctx)
	if err == nil {
		err = s.load(ctx)
	}
	var wrong []string
	if err == nil {
		wrong, err = s.finish()
	}
	r := result{Wrong: wrong}
	if s.sampler != nil && len(s.sampler.all) > 0 {
		r.Summary = s.summarize(begun, revision, wrong, err)
		err = errors.Join(err, writeSummary(filepath.Join(o.Out, "run.json"), r.Summary))
	}
	return r, errors.Join(err, s.close())
}

// prepare builds the network, writes the manifests, and starts nfproxy.
func (s *soak) prepare(ctx context.Context) error {
	node, err := sandbox.Current()
	if err != nil {
		return err
	}
	if s.network, err = sandbox.NewNetwork(node, nodeAddrs...); err != nil {
		return err
	}
	if err := addBackends(s.network); err != nil {
		return err
	}
	s.state = filepath.Join(s.Out, "state")
	if err := errors.Join(os.RemoveAll(s.state), os.Mkdir(s.state, 0o755)); err != nil { // an interrupted run leaves it
		return err
	}
	files, err := newManifests(s.state)
	if err != nil {
		return err
	}
	c := population{services: s.Services}
	s.logf("writing the manifests of %d Services", c.services)
	if s.changer, err = newChanger(c, files, s.Seed); err != nil {
		return err
	}
	if err := s.newParts(c); err != nil {
		return err
	}
	s.logf("starting nfproxy")
	if err := s.daemon.start(ctx); err != nil {
		return err
	}
	s.logf("nfproxy has programmed all Services")
	return nil
}

// newParts makes the remaining parts and opens the files of the results.
func (s *soak) newParts(c population) error {
	log, err := s.create("nfproxy.log")
	if err != nil {
		return err
	}
	failures, err := s.create("failures.log")
	if err != nil {
		return err
	}
	samples, err := s.create("samples.csv")
	if err != nil {
		return err
	}
	if s.daemon, err = newDaemon(s.Program, s.state, log); err != nil {
		return err
	}
	if s.flows, err = newFlows(c, s.Flows, s.Seed); err != nil {
		return err
	}
	if s.clients, err = newClients(s.network, c, &failureLog{w: failures}); err != nil {
		return err
	}
	s.foreign = newForeign(c, s.Seed)
	s.sampler = newSampler(samples)
	s.sampler.daemon, s.sampler.changer, s.sampler.clients, s.sampler.flows, s.sampler.foreign = s.daemon, s.changer, s.clients, s.flows, s.foreign
	return nil
}

func (s *soak) create(name string) (*os.File, error) {
	f, err := os.Create(filepath.Join(s.Out, name))
	s.files = append(s.files, f)
	return f, err
}

// load runs all parts for the duration, and longer if the restarts take longer. If one of them fails, it ends them all and
// returns the error.
func (s *soak) load(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	failed := make(chan error, 8)
	part := func(name string, f func() error) {
		running.Go(func() {
			if err := f(); err != nil {
				failed <- fmt.Errorf("%s: %w", name, err)
				cancel()
			}
		})
	}
	s.sampler.started = time.Now()
	running.Go(func() {
		s.waitForEnd(ctx)
		cancel()
	})
	running.Go(func() { s.clients.run(ctx) })
	part("flows", func() error { return s.flows.run(ctx) })
	part("changes", func() error { return s.changer.run(ctx, s.Rate) })
	part("another program", func() error { return s.foreign.run(ctx, s.Foreign, s.Deletion) })
	// In the second half of the run the process is left alone, so that growth shows.
	part("nfproxy", func() error { return s.daemon.restartFor(ctx, s.Duration/2, s.Restart) })
	part("samples", func() error { return s.sampler.run(ctx, s.Sample) })
	s.logf("the load runs for %v", s.Duration)
	running.Wait()
	close(failed)
	var all []error
	for err := range failed {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// waitForEnd waits for the duration, and until there were both kinds of restart.
func (s *soak) waitForEnd(ctx context.Context) {
	end := time.Now().Add(s.Duration)
	for ctx.Err() == nil && (time.Now().Before(end) || s.daemon.restarts.Load() < leastRestarts) {
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// finish checks the end state and ends nfproxy. It returns what does not hold.
func (s *soak) finish() ([]string, error) {
	s.logf("comparing the tables with the manifests")
	different, err := checkTables(s.daemon, s.Settle)
	if err != nil {
		return nil, err
	}
	if err := s.sampler.sample(); err != nil {
		return nil, err
	}
	wrong := s.sampler.verdict()
	if different != "" {
		wrong = append(wrong, different)
	}
	return wrong, s.daemon.stop()
}

// close removes the network and the manifests and closes the files.
func (s *soak) close() error {
	var all []error
	for _, f := range s.files {
		all = append(all, f.Close())
	}
	if s.flows != nil {
		all = append(all, s.flows.close())
	}
	if s.network != nil {
		all = append(all, s.network.Close())
	}
	if s.state != "" {
		all = append(all, os.RemoveAll(s.state))
	}
	return errors.Join(all...)
}

func (s *soak) logf(format string, args ...any) {
	fmt.Fprintf(s.log, "%s %s\n", time.Now().UTC().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
