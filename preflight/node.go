package preflight

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"nfproxy/nft/kernel"
)

// Node is where the checks look. Its fields are for tests; Here is what everybody else wants.
type Node struct {
	// Root is the directory that has the kernel's files: proc is in it.
	Root string
	// Open opens the nf_tables of the node, Scratch those of a namespace that is thrown away.
	Open, Scratch func() (*kernel.Conn, error)
	// Probes are what the kernel has to take.
	Probes func(ipv6 bool) []Probe
	// Bridges lists the network interfaces that are bridges.
	Bridges func() ([]string, error)
	// Flows asks the connection tracking over netlink.
	Flows func() error
	// Healthz is where a service proxy answers that runs on the node, address and port; Client asks there.
	Healthz string
	Client  *http.Client
}

// Here is the machine that this runs on, in the network namespace of the calling thread.
func Here() Node {
	return Node{Root: "/", Open: kernel.Open, Scratch: scratch, Probes: Probes, Bridges: bridges, Flows: flows,
		Healthz: "127.0.0.1:10256",
		Client:  &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Check makes all checks.
func (n Node) Check() []Line {
	lines := n.Essential()
	for _, check := range []func() []Line{n.conntrackNetlink, n.conntrack, n.forwarding, n.rpFilter, n.bridged, n.tables,
		n.iptablesLegacy, n.ipvs, n.daemon} {
		lines = append(lines, check()...)
	}
	return lines
}

// Essential makes the checks without which there can be no rules: the kernel's version, the privileges, and the probes.
// Where they cannot be made a line says so.
func (n Node) Essential() []Line {
	lines := n.version()
	k, err := n.Open()
	switch {
	case errors.Is(err, os.ErrPermission):
		lines = append(lines, problem("privileges", "nftables cannot be read or changed without CAP_NET_ADMIN").
			advise("run as root, or grant that capability"))
	case err != nil:
		lines = append(lines, problem("nf_tables", "the kernel does not answer for nftables: %v", err).
			advise("it needs CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES; if the kernel has them as modules: modprobe nf_tables"))
	default:
		k.Close()
		lines = append(lines, ok("privileges", "CAP_NET_ADMIN is there"))
	}
	return append(lines, n.probes()...)
}

// probes tries what the rules are made of.
func (n Node) probes() []Line {
	k, err := n.Scratch()
	if err != nil {
		return []Line{warning("namespace", "what the kernel can do was not tried, for that takes a network namespace of its own: %v", err).
			advise("run as root, or grant CAP_SYS_ADMIN for the check alone: nfproxy run does without")}
	}
	defer k.Close()
	lines := []Line{ok("namespace", "what the kernel can do is tried in a network namespace of its own")}
	for _, p := range n.Probes(n.hasIPv6()) {
		lines = append(lines, p.try(k))
	}
	return lines
}

// version is Linux's.
func (n Node) version() []Line {
	release, err := n.read("proc/sys/kernel/osrelease")
	if err != nil {
		return []Line{warning("kernel", "its version is not known: %v", err)}
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return []Line{warning("kernel", "the version %q cannot be understood", release).advise("Linux 5.9 or newer is needed")}
	}
	if major < 5 || major == 5 && minor < 9 {
		return []Line{problem("kernel", "Linux %s cannot refuse connections where the rules do it", release).
			advise("Linux 5.9 or newer is needed")}
	}
	return []Line{ok("kernel", "Linux %s", release)}
}

// hasIPv6 says whether the kernel speaks IPv6 in this namespace.
func (n Node) hasIPv6() bool {
	_, err := os.Stat(n.path("proc/net/if_inet6"))
	return !errors.Is(err, os.ErrNotExist)
}

// path is a file's, which is given from the root.
func (n Node) path(file string) string { return filepath.Join(n.Root, file) }

// read reads a file without the space around it.
func (n Node) read(file string) (string, error) {
	text, err := os.ReadFile(n.path(file))
	return strings.TrimSpace(string(text)), err
}

// number reads a file that holds a number.
func (n Node) number(file string) (int, error) {
	text, err := n.read(file)
	if err != nil {
		return 0, err
	}
	number, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", n.path(file), err)
	}
	return number, nil
}
