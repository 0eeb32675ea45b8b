// Package demo runs nfproxy in temporary network namespaces: a node, a client and backends. It starts `nfproxy run` with the
// manifests in docs/demo, opens connections from the client, changes endpoints and prints what happens.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"nfproxy/docs"
)

// timeout is the limit for the whole demo, which usually takes a tenth of it.
const timeout = 30 * time.Second

// clientAddr is the client's address. It is in the cluster CIDR, so connections from it are not masqueraded.
const clientAddr = "10.244.0.5"

// connections is the number of connections that the client opens to each Service.
const connections = 1000

// The endpoints that the demo changes: secondNginx is added, and newEcho replaces oldEcho.
const (
	secondNginx = "10.0.0.224"
	oldEcho     = "10.244.2.89"
	newEcho     = "10.244.2.90"
)

// laterEndpoints returns the endpoints that the demo adds to a Service.
func laterEndpoints(svc *service) []string {
	switch svc.name() {
	case "default/nginx":
		return []string{secondNginx}
	case "default/echo-service":
		return []string{newEcho}
	}
	return nil
}

// manifests is the path of the manifests, both in the repository and in the working directory of nfproxy.
const manifests = "docs/demo"

// command returns the arguments of nfproxy. With verbosity 4 it logs each transaction.
func command() []string {
	return []string{"run", "--manifests", manifests, "--hostname-override", "demo-node", "--cluster-cidr", "10.244.0.0/16",
		"--service-cidr", "10.96.0.0/12", "--v", "4"}
}

// show is a running demo.
type show struct {
	out      io.Writer
	bold     func(string) string
	services map[string]*service
	order    []*service
	network  *network
	proxy    *process
}

// Run runs the demo and prints it to out. It must run in a sandbox, because the network namespace of this process becomes the
// node. It returns an error if a connection fails or a change has no effect.
func Run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dir, err := os.MkdirTemp("", "nfproxy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := prepare(dir, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.network.Close()) }()
	begun := time.Now()
	running, stop := context.WithCancel(ctx)
	if s.proxy, err = start(running, dir, command()...); err != nil {
		stop()
		return err
	}
	defer func() { // nfproxy must end before the network is removed
		stop()
		<-s.proxy.ended
		if err != nil {
			err = fmt.Errorf("%w\nthe log of nfproxy:\n%s", err, s.proxy.text())
		}
	}()
	return s.play(ctx, begun)
}

// prepare copies the manifests to dir and builds the network that they need.
func prepare(dir string, out io.Writer) (*show, error) {
	if err := copyManifests(dir); err != nil {
		return nil, err
	}
	order, err := readServices(filepath.Join(dir, manifests))
	if err != nil {
		return nil, err
	}
	s := &show{out: out, bold: boldOn(out), order: order, services: make(map[string]*service)}
	for _, svc := range order {
		s.services[svc.name()] = svc
	}
	s.network, err = newNetwork()
	if err != nil {
		return nil, err
	}
	for _, svc := range order {
		for _, backend := range append(svc.endpoints(), laterEndpoints(svc)...) {
			if err := s.network.addBackend(svc, backend); err != nil {
				return nil, errors.Join(err, s.network.Close())
			}
		}
	}
	return s, nil
}

// play runs the steps of the demo in order.
func (s *show) play(ctx context.Context, begun time.Time) error {
	c, err := s.proxy.await(ctx)
	if err != nil {
		return err
	}
	s.title("A node, a client Pod and backend Pods, each in its own network namespace")
	fmt.Fprintf(s.out, "$ nfproxy %s\n", strings.Join(command(), " "))
	fmt.Fprintf(s.out, "%d Services programmed as %d elements, %s after the start\n", len(s.order), c.operations, rounded(time.Since(begun)))

	s.title(fmt.Sprintf("%d connections from the client to each Service", connections))
	if err := s.connectAll(ctx, s.order...); err != nil {
		return err
	}
	nginx := s.services["default/nginx"]
	s.title("default/nginx gets a second endpoint")
	nginx.add(secondNginx)
	if err := s.change(ctx, nginx); err != nil {
		return err
	}
	if err := s.connectAll(ctx, nginx); err != nil {
		return err
	}
	s.title("default/echo-service: an endpoint is replaced while the client keeps connecting")
	if err := s.replace(ctx, s.services["default/echo-service"], oldEcho, newEcho); err != nil {
		return err
	}
	s.title("nfproxy dump")
	return s.dump(ctx)
}

// replace replaces an endpoint of the Service while the client keeps connecting. No connection may fail.
func (s *show) replace(ctx context.Context, svc *service, old, replacement string) error {
	load := s.network.startLoad(ctx, svc.frontend())
	err := load.atLeast(ctx, 200)
	if err == nil {
		svc.replace(old, replacement)
		err = s.change(ctx, svc)
	}
	if err == nil {
		err = load.forget(ctx)
	}
	if err == nil {
		err = s.network.stop(old)
	}
	if err == nil {
		err = load.atLeast(ctx, 500)
	}
	tally := load.stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  %d connections in total, %d failed; since the change %s served %d and %s served %d\n",
		tally.total, len(tally.failures), old, tally.served[old], replacement, tally.served[replacement])
	switch {
	case len(tally.failures) > 0:
		return fmt.Errorf("%d connections failed, the first: %w", len(tally.failures), tally.failures[0])
	case tally.served[replacement] == 0 || tally.served[old] > 0:
		return fmt.Errorf("the change had no effect: %v", tally.served)
	}
	return nil
}

// connectAll opens connections to each Service and prints how many each endpoint served. It returns an error if a connection
// fails, another backend answers, or an endpoint's share is implausible.
func (s *show) connectAll(ctx context.Context, services ...*service) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tFRONTEND\tENDPOINT\tCONNECTIONS\tSHARE")
	var problems []error
	for _, svc := range services {
		t := s.network.connect(ctx, svc.frontend(), connections)
		problems = append(problems, t.check(svc, connections)...)
		name, frontend := svc.name(), svc.frontend()
		for _, e := range svc.endpoints() {
			at, err := svc.at(e)
			if err != nil {
				return err
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.1f %%\n", name, frontend, at, t.served[e], 100*float64(t.served[e])/connections)
			name, frontend = "", ""
		}
	}
	return errors.Join(table.Flush(), errors.Join(problems...))
}

// change writes a Service's manifest, waits until the kernel has the change and prints how long it took.
func (s *show) change(ctx context.Context, svc *service) error {
	begun := time.Now()
	if err := svc.write(); err != nil {
		return err
	}
	c, err := s.proxy.await(ctx)
	if err != nil {
		return fmt.Errorf("change of %s: %w", filepath.Base(svc.file), err)
	}
	fmt.Fprintf(s.out, "  from writing %s to the change in the kernel: %s, including %s for the transaction (%d element operations)\n",
		filepath.Base(svc.file), rounded(time.Since(begun)), rounded(c.took), c.operations)
	return nil
}

// dump runs `nfproxy dump`.
func (s *show) dump(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "dump")
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = s.out, os.Stderr
	return cmd.Run()
}

func (s *show) title(text string) { fmt.Fprintf(s.out, "\n%s\n", s.bold(text)) }

// boldOn returns a function that makes text bold if out is a terminal and NO_COLOR is not set.
func boldOn(out io.Writer) func(string) string {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		return func(text string) string { return "\x1b[1m" + text + "\x1b[0m" }
	}
	return func(text string) string { return text }
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// copyManifests writes the embedded manifests to the directory.
func copyManifests(dir string) error {
	files, err := fs.Sub(docs.Demo, "demo")
	if err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(dir, manifests), files)
}
