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

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// Node is the node to check. Tests set its fields; all other callers use Here.
type Node struct {
	// Instance is the nfproxy that is to run.
	Instance render.Instance
	// Root is the directory that contains proc.
	Root string
	// Open connects to nf_tables in the node's network namespace, Scratch in a temporary one.
	Open, Scratch func() (*kernel.Conn, error)
	// Probes returns the probes that the kernel must accept.
	Probes func(ipv6 bool) []Probe
	// NodePorts is the range from which the API server takes node ports.
	NodePorts utilnet.PortRange
	// Links returns the names of the network interfaces, Bridges those of bridges.
	Links, Bridges func() ([]string, error)
	// LegacyTable reads a table of iptables-legacy.
	LegacyTable func(legacyFormat, string) (legacyEntries, error)
	// Cgroup returns the directory of a cgroup v2, and SocketPrograms the names of the BPF programs that apply to its sockets.
	Cgroup         func() (string, error)
	SocketPrograms func(cgroup string) ([]string, error)
	// OpenConntrack returns an error if conntrack is not available over netlink.
	OpenConntrack func() error
	// Healthz is the address and port where a service proxy on the node serves its health. Client sends the request.
	Healthz string
	Client  *http.Client
}

// Here returns this machine, in the network namespace of the calling thread, for an Instance.
func Here(i render.Instance) Node {
	nodePorts, _ := ParseNodePorts(DefaultNodePorts)
	return Node{Instance: i, Root: "/", Open: kernel.Open, Scratch: scratch, Probes: Probes, NodePorts: nodePorts, Links: links, Bridges: bridges,
		LegacyTable: readLegacyTable, Cgroup: cgroupRoot, SocketPrograms: socketPrograms, OpenConntrack: openConntrack, Healthz: "127.0.0.1:10256",
		Client: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}}
}

// Check runs all checks.
func (n Node) Check() []Line {
	lines := n.Essential()
	for _, check := range []func() []Line{n.conntrackNetlink, n.conntrack, n.forwarding, n.rpFilter, n.bridgeTracking, n.ephemeralPorts,
		n.tables, n.iptablesLegacy, n.ipvs, n.socketLB, n.daemon} {
		lines = append(lines, check()...)
	}
	return lines
}

// Essential runs the checks of what the rules cannot do without: the kernel version, privileges, and kernel features. If a
// check cannot be made, a line with the level Warning reports it.
func (n Node) Essential() []Line {
	lines := n.kernelVersion()
	k, err := n.Open()
	switch {
	case errors.Is(err, os.ErrPermission):
		lines = append(lines, problem("privileges", "no access to nftables: CAP_NET_ADMIN is missing").
			advise("run nfproxy as root, or grant it CAP_NET_ADMIN"))
	case err != nil:
		lines = append(lines, problem("nf_tables", "nf_tables is not available over netlink: %v", err).
			advise("enable CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES; if they are built as modules: modprobe nf_tables"))
	default:
		k.Close()
		lines = append(lines, ok("privileges", "CAP_NET_ADMIN is present"))
	}
	return append(lines, n.probeFeatures()...)
}

// probeFeatures runs the probes in a temporary network namespace.
func (n Node) probeFeatures() []Line {
	k, err := n.Scratch()
	if err != nil {
		return []Line{warning("namespace", "kernel features not probed: no temporary network namespace: %v", err).
			advise("run nfproxy check as root, or grant it CAP_SYS_ADMIN; nfproxy run does not need that capability")}
	}
	defer k.Close()
	lines := []Line{ok("namespace", "kernel features are probed in a temporary network namespace")}
	for _, p := range n.Probes(n.hasIPv6()) {
		lines = append(lines, p.try(k))
	}
	return lines
}

// kernelVersion checks that Linux is new enough: Linux 5.9 has all that the rules need, and 6.1 is the oldest version that the
// tests run on (integration/kernels).
func (n Node) kernelVersion() []Line {
	release, err := n.read("proc/sys/kernel/osrelease")
	if err != nil {
		return []Line{warning("kernel", "kernel version cannot be read: %v", err)}
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return []Line{warning("kernel", "kernel version %q cannot be parsed", release).advise("nfproxy needs Linux 6.1 or newer")}
	}
	if major < 5 || major == 5 && minor < 9 {
		return []Line{problem("kernel", "Linux %s does not support reject in chains of type nat at prerouting", release).
			advise("nfproxy needs Linux 6.1 or newer")}
	}
	if major < 6 || major == 6 && minor < 1 {
		return []Line{warning("kernel", "Linux %s is older than 6.1, the oldest version that nfproxy is tested with", release).
			advise("use Linux 6.1 or newer; docs/check.md lists what older versions lack")}
	}
	return []Line{ok("kernel", "Linux %s", release)}
}

// hasIPv6 reports whether the kernel supports IPv6 in this network namespace.
func (n Node) hasIPv6() bool {
	_, err := os.Stat(n.path(threadProc + "/net/if_inet6"))
	return !errors.Is(err, os.ErrNotExist)
}

// path returns the path of a file that is given relative to the root.
func (n Node) path(file string) string { return filepath.Join(n.Root, file) }

// read returns the contents of a file without leading and trailing white space.
func (n Node) read(file string) (string, error) {
	text, err := os.ReadFile(n.path(file))
	return strings.TrimSpace(string(text)), err
}

// readInt returns the number in a file.
func (n Node) readInt(file string) (int, error) {
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
