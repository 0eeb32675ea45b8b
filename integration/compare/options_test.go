package compare

import (
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"nfproxy/integration/compare/record"
)

// The defaults make a run of less than a minute; `make bench-compare` sets others.
var (
	sizes   = flag.String("compare.sizes", "50", "numbers of Services x endpoints, separated by commas; without endpoints: x3")
	alone   = flag.String("compare.alone", "1x200", "sizes at which only nfproxy is measured")
	proxies = flag.String("compare.proxies", "nfproxy,nftables,iptables", "nfproxy, and the modes of kube-proxy")
	rounds  = flag.Int("compare.rounds", 1, "trials of each proxy at each size; those that take too long are not repeated")
	samples = flag.Int("compare.samples", 2, "most changes of each kind in a trial")
	bound   = flag.Duration("compare.bound", time.Minute, "most time for one start, restart or change")
	budget  = flag.Duration("compare.budget", 20*time.Second, "time after which a kind of change is not repeated any more, and six times of which a trial may take to be repeated")
	note    = flag.String("compare.note", "", "a sentence about the run, for the page")
	out     = flag.String("compare.out", "", "file of the record; if it is empty, none is kept")
)

// leastSamples is how many changes of each kind there are in a trial, even if they take longer than the budget.
const leastSamples = 2

// size is a number of Services with a number of endpoints each.
type size struct{ services, endpoints int }

func (s size) String() string { return fmt.Sprintf("%dx%d", s.services, s.endpoints) }

// options are the values of the flags.
type options struct {
	sizes   []size
	alone   []size // of sizes
	proxies []record.Proxy
	rounds  int
	samples int
	bound   time.Duration
	budget  time.Duration
	out     string
}

// proxyNames are the names of the proxies in flags.
var proxyNames = map[string]record.Proxy{
	"nfproxy": record.Nfproxy, "nftables": record.KubeProxyNftables, "iptables": record.KubeProxyIptables,
}

func parseOptions() (options, error) {
	o := options{rounds: *rounds, samples: *samples, bound: *bound, budget: *budget, out: *out}
	both, err := parseSizes(*sizes)
	if err != nil {
		return o, err
	}
	if o.alone, err = parseSizes(*alone); err != nil {
		return o, err
	}
	o.sizes = slices.Concat(both, o.alone)
	for name := range strings.FieldsFuncSeq(*proxies, isSeparator) {
		proxy, ok := proxyNames[name]
		if !ok {
			return o, fmt.Errorf("unknown proxy %q: want nfproxy, nftables or iptables", name)
		}
		o.proxies = append(o.proxies, proxy)
	}
	if o.out != "" && !filepath.IsAbs(o.out) {
		return o, fmt.Errorf("-compare.out %s is not an absolute path", o.out)
	}
	return o, nil
}

func isSeparator(r rune) bool { return r == ',' || r == ' ' }

func parseSizes(text string) ([]size, error) {
	var all []size
	for field := range strings.FieldsFuncSeq(text, isSeparator) {
		services, endpoints, ok := strings.Cut(field, "x")
		if !ok {
			endpoints = "3"
		}
		n, err1 := strconv.Atoi(services)
		m, err2 := strconv.Atoi(endpoints)
		if err1 != nil || err2 != nil || n < 1 || m < 1 || n*m > mostEndpoints {
			return nil, fmt.Errorf("invalid size %q: want SERVICESxENDPOINTS", field)
		}
		all = append(all, size{n, m})
	}
	return all, nil
}

// command returns the command that repeats the run.
func (o options) command() string {
	return fmt.Sprintf("make bench-compare SIZES='%s' ALONE='%s' PROXIES='%s' ROUNDS=%d BOUND=%s", *sizes, *alone, *proxies, o.rounds, o.bound)
}

// proxiesAt returns the proxies that are measured at a size.
func (o options) proxiesAt(s size) []record.Proxy {
	if slices.Contains(o.alone, s) {
		return []record.Proxy{record.Nfproxy}
	}
	return o.proxies
}
