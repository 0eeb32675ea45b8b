package preflight

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// DefaultNodePorts is the default of the API server's flag --service-node-port-range.
const DefaultNodePorts = "30000-32767"

// ParseNodePorts parses a range of node ports as the API server does: 30000-32767, or 30000+2767.
func ParseNodePorts(text string) (utilnet.PortRange, error) {
	r, err := utilnet.ParsePortRange(text)
	if err == nil && (r.Size == 0 || r.Base == 0) {
		err = errors.New("it contains no port, or port 0")
	}
	if err != nil {
		return utilnet.PortRange{}, fmt.Errorf("%q is not a range of ports such as %s: %w", text, DefaultNodePorts, err)
	}
	return *r, nil
}

// Files of the ports that the kernel chooses for sockets, the same for both families (Documentation/networking/ip-sysctl.rst).
const (
	localPortRange     = "proc/sys/net/ipv4/ip_local_port_range"
	localReservedPorts = "proc/sys/net/ipv4/ip_local_reserved_ports"
)

// ephemeralPorts checks that the kernel does not give node ports to sockets whose program asks for no certain port. A socket
// with such a port keeps nfproxy from listening there, for a health check node port or at a loopback address. If the socket
// itself listens, clients on other machines reach the Service instead of it.
func (n Node) ephemeralPorts() []Line {
	text, err := n.read(localPortRange)
	if err != nil {
		return []Line{warning("ephemeral-ports", "ip_local_port_range cannot be read: %v", err)}
	}
	var first, last int
	if _, err := fmt.Sscan(text, &first, &last); err != nil {
		return []Line{warning("ephemeral-ports", "ip_local_port_range %q cannot be parsed", text)}
	}
	reservedText, err := n.read(localReservedPorts)
	if err != nil {
		return []Line{warning("ephemeral-ports", "ip_local_reserved_ports cannot be read: %v", err)}
	}
	reserved, err := parseReserved(reservedText)
	if err != nil {
		return []Line{warning("ephemeral-ports", "ip_local_reserved_ports %q cannot be parsed", reservedText)}
	}
	shared, unreserved := 0, 0
	for p := max(first, n.NodePorts.Base); p <= last && n.NodePorts.Contains(p); p++ {
		shared++
		if !slices.ContainsFunc(reserved, func(r utilnet.PortRange) bool { return r.Contains(p) }) {
			unreserved++
		}
	}
	switch {
	case shared == 0:
		return []Line{ok("ephemeral-ports", "ephemeral ports %d-%d contain none of the node ports %s", first, last, &n.NodePorts)}
	case unreserved == 0:
		return []Line{ok("ephemeral-ports", "ephemeral ports %d-%d contain node ports, all of which are reserved", first, last)}
	}
	all := n.NodePorts.String()
	if reservedText != "" {
		all = reservedText + "," + all
	}
	return []Line{warning("ephemeral-ports", "ephemeral ports %d-%d contain %d of the node ports %s: a program of this node can get such a port for a socket of its own",
		first, last, unreserved, &n.NodePorts).advise("set net.ipv4.ip_local_reserved_ports to " + all)}
}

// parseReserved parses the value of ip_local_reserved_ports, such as 8080,30000-32767.
func parseReserved(text string) ([]utilnet.PortRange, error) {
	var all []utilnet.PortRange
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err := errors.Join(err, err2); err != nil {
			return nil, err
		}
		all = append(all, utilnet.PortRange{Base: int(first), Size: int(last) - int(first) + 1})
	}
	return all, nil
}

// missing reports whether an error says that a file does not exist.
func missing(err error) bool { return errors.Is(err, os.ErrNotExist) }
