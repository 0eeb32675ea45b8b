package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"nfproxy/render"
	"nfproxy/report"
)

// threadProc is the directory of the calling thread, whose files in net belong to the thread's network namespace.
const threadProc = "proc/thread-self"

// States of sockets (include/net/tcp_states.h): a TCP socket that listens, and a UDP socket that is
// not connected.
const (
	stateListen = 10 // TCP_LISTEN
	stateClose  = 7  // TCP_CLOSE
)

// listener is a socket that receives what is sent to its port.
type listener struct {
	Protocol string
	At       netip.AddrPort
	Inode    uint32
	// Program is the name of a process that has the socket, empty if it cannot be found out.
	Program string
}

func (l listener) String() string {
	return fmt.Sprintf("%s/%s (%s)", l.At, l.Protocol, cmp.Or(l.Program, "program unknown"))
}

// listeners checks for sockets of other programs at node ports. Connections to a node port never reach a socket of the node,
// except at loopback addresses, which the rules leave alone.
func (n Node) listeners(served report.Description) []Line {
	all, err := listening()
	if err != nil {
		return []Line{warning("node-port-listeners", "listening sockets cannot be read: %v", err)}
	}
	inUse := nodePortsOf(served)
	var hidden, threatened []listener
	for _, l := range all {
		switch {
		case l.At.Addr().IsLoopback():
		case inUse.contains(l):
			hidden = append(hidden, l)
		case n.NodePorts.Contains(int(l.At.Port())):
			threatened = append(threatened, l)
		}
	}
	n.name(hidden)
	n.name(threatened)
	hidden, threatened = withoutProxies(hidden), withoutProxies(threatened)
	var lines []Line
	if len(hidden) > 0 {
		lines = append(lines, warning("node-port-listeners", "%s at node ports of Services: other machines reach the Service at this port instead of the program",
			joinOnce(texts(hidden))).advise("let the program use another port, or the Service another node port"))
	}
	if len(threatened) > 0 {
		lines = append(lines, warning("node-port-listeners", "%s in the node port range %s: a Service that gets this port hides the program from other machines",
			joinOnce(texts(threatened)), &n.NodePorts).advise("let the program use a port outside the range, or give the API server another --service-node-port-range"))
	}
	if len(lines) == 0 {
		lines = append(lines, ok("node-port-listeners", "no other program listens at a node port"))
	}
	return lines
}

// listening returns the sockets of TCP and UDP that listen in the calling thread's network namespace.
func listening() ([]listener, error) {
	var all []listener
	for _, kind := range []struct {
		protocol string
		state    uint8
		list     func(family uint8) ([]*netlink.Socket, error)
	}{{"tcp", stateListen, netlink.SocketDiagTCP}, {"udp", stateClose, netlink.SocketDiagUDP}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := kind.list(family)
			if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // sockets that change meanwhile may be missing
				return nil, fmt.Errorf("%s: %w", kind.protocol, err)
			}
			for _, s := range sockets {
				if addr, isAddr := netip.AddrFromSlice(s.ID.Source); isAddr && s.State == kind.state {
					all = append(all, listener{Protocol: kind.protocol, At: netip.AddrPortFrom(addr.Unmap(), s.ID.SourcePort), Inode: s.INode})
				}
			}
		}
	}
	return all, nil
}

// nodePorts holds the frontends of kind NodePort by protocol and port.
type nodePorts map[string][]netip.Addr

func nodePortsOf(d report.Description) nodePorts {
	all := make(nodePorts)
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			if f.Kind == render.NodePort {
				key := strings.ToLower(s.Protocol) + "/" + strconv.Itoa(int(f.Port))
				all[key] = append(all[key], f.Address)
			}
		}
	}
	return all
}

// contains reports whether a packet to a node port would reach the listener without the rules. A listener at :: may receive IPv4
// as well.
func (p nodePorts) contains(l listener) bool {
	for _, a := range p[l.Protocol+"/"+strconv.Itoa(int(l.At.Port()))] {
		at := l.At.Addr()
		if at == a || at.IsUnspecified() && (at.Is6() || a.Is4()) {
			return true
		}
	}
	return false
}

// name sets the programs of listeners, as far as the caller may read the descriptors of the processes.
func (n Node) name(all []listener) {
	if len(all) == 0 {
		return
	}
	fs, err := procfs.NewFS(n.path("proc"))
	if err != nil {
		return
	}
	processes, err := fs.AllProcs()
	if err != nil {
		return
	}
	for _, p := range processes {
		files, err := p.FileDescriptorTargets()
		if err != nil {
			continue
		}
		for i := range all {
			if slices.Contains(files, fmt.Sprintf("socket:[%d]", all[i].Inode)) {
				all[i].Program = program(p)
			}
		}
	}
}

// program returns the name with which a process was started.
func program(p procfs.Proc) string {
	if arguments, err := p.CmdLine(); err == nil && len(arguments) > 0 {
		return filepath.Base(arguments[0])
	}
	name, _ := p.Comm()
	return name
}

// withoutProxies leaves out the listeners of service proxies: health check node ports.
func withoutProxies(all []listener) []listener {
	return slices.DeleteFunc(all, func(l listener) bool { return l.Program == "nfproxy" || l.Program == kubeProxyName })
}

func texts(all []listener) []string {
	var names []string
	for _, l := range all {
		names = append(names, l.String())
	}
	return names
}
