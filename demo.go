package main

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"nfproxy/agent"
	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/watcher"
)

//go:embed docs/demo/*.yaml
var demoManifests embed.FS

// The demo's node. The client is a pod of the cluster CIDR: its connections are not masqueraded.
const (
	demoNode        = "demo-node"
	demoClient      = "10.244.0.5"
	demoClusterCIDR = "10.244.0.0/16"
	demoServiceCIDR = "10.96.0.0/12"
	// demoConnections is how many connections each Service gets.
	demoConnections = 1000
)

// demoService is one Service of docs/demo and the endpoints it starts with.
type demoService struct {
	name, file string
	frontend   string
	port       uint16 // of the endpoints
	endpoints  []string
}

func demoServices() []demoService {
	return []demoService{
		{"default/echo-service", "echo-service.yaml", "10.102.37.243:80", 80, []string{"10.244.2.68", "10.244.2.69", "10.244.2.89"}},
		{"default/nginx", "nginx.yaml", "10.109.91.212:80", 80, []string{"10.0.1.79"}},
		{"default/hello-world-clusterip", "hello-world-clusterip.yaml", "10.96.139.204:80", 8080, []string{"10.244.1.2", "10.244.2.2", "10.244.2.3"}},
		{"finance/payment-service", "payment-service.yaml", "10.96.0.1:80", 8080, []string{"10.1.0.5", "10.1.0.6", "10.1.0.7"}},
	}
}

// show is the demo under way.
type show struct {
	out     io.Writer
	bold    func(string) string
	dir     string // of the manifests
	network *demoNetwork
	commits chan agent.Commit
	ended   chan error // the proxy's end
}

// demo runs inside the sandbox: this process' network namespace is the node.
func demo(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "nfproxy-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := copyManifests(dir); err != nil {
		return err
	}
	network, err := newDemoNetwork()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, network.Close()) }()

	s := &show{out: out, bold: boldOn(out), dir: dir, network: network, commits: make(chan agent.Commit), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(ctx)
	defer func() { // the proxy ends before its network does
		cancel()
		err = errors.Join(err, <-s.ended)
	}()
	start := time.Now()
	if err := s.startProxy(ctx); err != nil {
		s.ended <- nil
		return err
	}
	return s.play(ctx, start)
}

// startProxy starts the same loop as nfproxy run.
func (s *show) startProxy(ctx context.Context) error {
	node := render.Node{
		Name:         demoNode,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(demoClusterCIDR)},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(demoServiceCIDR)},
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	src, err := watcher.NewDir(s.dir, node, log)
	if err != nil {
		return errors.Join(err, k.Close())
	}
	committed := func(c agent.Commit) {
		select {
		case s.commits <- c:
		case <-ctx.Done():
		}
	}
	go func() {
		s.ended <- errors.Join(agent.Follow(ctx, src.Next, k, node, log, committed), src.Close(), k.Close())
	}()
	return nil
}

// play is the demo, act by act.
func (s *show) play(ctx context.Context, start time.Time) error {
	c, err := s.await(ctx)
	if err != nil {
		return err
	}
	s.title("A node, a client pod, and backend pods, each in a network namespace of its own")
	fmt.Fprintf(s.out, "nfproxy run --manifests docs/demo --hostname-override %s --cluster-cidr %s --service-cidr %s\n",
		demoNode, demoClusterCIDR, demoServiceCIDR)
	fmt.Fprintf(s.out, "4 Services: %d elements, in the kernel %s after the start\n",
		c.Operations, rounded(time.Since(start)))

	services := demoServices()
	s.title(fmt.Sprintf("%d connections from the client to each Service", demoConnections))
	if err := s.connectAll(ctx, services); err != nil {
		return err
	}
	s.title("default/nginx gets a second endpoint")
	nginx := &services[1]
	if err := s.change(ctx, *nginx, addEndpoint("10.0.0.224")); err != nil {
		return err
	}
	nginx.endpoints = append(nginx.endpoints, "10.0.0.224")
	if err := s.connectAll(ctx, services[1:2]); err != nil {
		return err
	}
	s.title("default/echo-service: a backend is replaced while the client keeps connecting")
	if err := s.replace(ctx, services[0], "10.244.2.89", "10.244.2.90"); err != nil {
		return err
	}
	s.title("nfproxy dump")
	return s.dump()
}

// replace swaps a backend for another one under load; the load must not notice.
func (s *show) replace(ctx context.Context, svc demoService, old, replacement string) error {
	load := s.network.startLoad(ctx, svc.frontend)
	err := load.atLeast(ctx, 200)
	if err == nil {
		err = s.change(ctx, svc, replaceEndpoint(old, replacement))
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
	fmt.Fprintf(s.out, "  %d connections meanwhile, %d failed; since the change %s served %d, %s %d\n",
		tally.total, len(tally.failures), old, tally.served[old], replacement, tally.served[replacement])
	switch {
	case len(tally.failures) > 0:
		return fmt.Errorf("%d connections failed, the first: %w", len(tally.failures), tally.failures[0])
	case tally.served[replacement] == 0 || tally.served[old] > 0:
		return fmt.Errorf("the change has not come through: %v", tally.served)
	}
	return nil
}

// connectAll sends the connections and prints who served them. The endpoints, and no others, must have their share.
func (s *show) connectAll(ctx context.Context, services []demoService) error {
	table := tabwriter.NewWriter(s.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tFRONTEND\tENDPOINT\tCONNECTIONS\tSHARE")
	var problems []error
	for _, svc := range services {
		t := s.network.connect(ctx, svc.frontend, demoConnections)
		problems = append(problems, t.check(svc, demoConnections)...)
		for i, e := range svc.endpoints {
			name, frontend := svc.name, svc.frontend
			if i > 0 {
				name, frontend = "", ""
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%.1f %%\n", name, frontend,
				netip.AddrPortFrom(netip.MustParseAddr(e), svc.port), t.served[e], 100*float64(t.served[e])/demoConnections)
		}
	}
	return errors.Join(table.Flush(), errors.Join(problems...))
}

// change edits a Service's manifest, as editors do it, and waits until that is in the kernel.
func (s *show) change(ctx context.Context, svc demoService, edit func(string) string) error {
	path := filepath.Join(s.dir, svc.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", []byte(edit(string(text))), 0o644); err != nil {
		return err
	}
	start := time.Now()
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	c, err := s.await(ctx)
	if err != nil {
		return fmt.Errorf("%s changed: %w", svc.file, err)
	}
	fmt.Fprintf(s.out, "  from the write of %s to the kernel: %s, of which the transaction %s (%d element operations)\n",
		svc.file, rounded(time.Since(start)), rounded(c.Took), c.Operations)
	return nil
}

// await waits for the next commit.
func (s *show) await(ctx context.Context) (agent.Commit, error) {
	select {
	case c := <-s.commits:
		return c, nil
	case err := <-s.ended:
		s.ended <- nil
		return agent.Commit{}, cmp.Or(err, errors.New("the proxy ended"))
	case <-ctx.Done():
		return agent.Commit{}, fmt.Errorf("waiting for the proxy: %w", ctx.Err())
	}
}

func (s *show) dump() error {
	tables, err := readTables()
	if err != nil {
		return err
	}
	return dumpTable(s.out, tables, render.Describe(tables))
}

func (s *show) title(text string) {
	fmt.Fprintf(s.out, "\n%s\n", s.bold(text))
}

// boldOn returns what makes text bold, on a terminal; elsewhere text stays as it is.
func boldOn(out io.Writer) func(string) string {
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" {
		return func(text string) string { return "\x1b[1m" + text + "\x1b[0m" }
	}
	return func(text string) string { return text }
}

func rounded(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func addEndpoint(addr string) func(string) string {
	return func(text string) string {
		return text + fmt.Sprintf("- addresses: [%s]\n  conditions: {ready: true}\n  nodeName: %s\n", addr, demoNode)
	}
}

func replaceEndpoint(old, replacement string) func(string) string {
	return func(text string) string { return strings.Replace(text, "["+old+"]", "["+replacement+"]", 1) }
}

func copyManifests(dir string) error {
	files, err := fs.Sub(demoManifests, "docs/demo")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, files)
}
