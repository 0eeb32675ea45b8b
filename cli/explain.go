package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/vishvananda/netlink"

	"nfproxy/config"
	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

func explainCommand() *cli.Command {
	own := []cli.Flag{
		&cli.StringFlag{Name: "from", Usage: "`ADDRESS[%INTERFACE]`: the client's address and the interface that receives its packets (default: this node)"},
		targetFlag("a Service stands for its cluster IP; its namespace is default unless given. ADDRESS/icmp is a ping"),
		outputFlag("text", "json", "dot"),
	}
	return &cli.Command{
		Name:  "explain",
		Usage: "explain what becomes of a connection: the endpoints and their chances, masquerading, and the rules",
		Description: "explain reads the kernel's tables, sends nothing and needs no running nfproxy. With a source of Services, named\n" +
			"by the flags of nfproxy run, it also explains why each endpoint is chosen or not, and whether the tables match\n" +
			"the desired state. With -o dot the output is a graph for Graphviz. docs/explain.md explains the output.",
		Flags:  append(own, config.SourceFlags()...),
		Before: noArguments,
		Action: explainAction,
	}
}

func explainAction(c *cli.Context) error {
	to, ping, err := explainedTarget(c)
	if err != nil {
		return err
	}
	from, err := parseClient(c.String("from"))
	if err != nil {
		return err
	}
	tables, err := readOurTables(c)
	if err != nil {
		return err
	}
	frontend := ping
	if !ping.IsValid() {
		if frontend, err = to.Frontend(report.Describe(tables), from.addr); err != nil {
			return err
		}
	}
	query, err := from.query(frontend)
	if err != nil {
		return err
	}
	if namesSource(c) {
		desired, err := desiredState(c)
		if err != nil {
			return err
		}
		query.Desired = &desired
	}
	explanation := report.Explain(tables, query)
	switch c.String("output") {
	case "json":
		return writeJSON(c.App.Writer, explanation)
	case "dot":
		return report.WriteExplanationDot(c.App.Writer, explanation)
	}
	return report.WriteExplanation(c.App.Writer, explanation)
}

// explainedTarget parses --to: a target, or ADDRESS/icmp. For the latter it returns the address with port 0 as ping, which is not
// valid otherwise.
func explainedTarget(c *cli.Context) (to report.Target, ping render.Frontend, err error) {
	if address, ok := strings.CutSuffix(c.String("to"), "/icmp"); ok {
		if addr, err := netip.ParseAddr(address); err == nil && !addr.Is4In6() && addr.Zone() == "" {
			return to, render.Frontend{AddrPort: netip.AddrPortFrom(addr, 0), Protocol: render.Family(addr).ICMP()}, nil
		}
	}
	to, err = targetOfFlag(c)
	return to, ping, err
}

// readOurTables reads the tables of the instance that the flags name from the kernel. It returns an error if there are none, or if another
// version of nfproxy made them.
func readOurTables(c *cli.Context) ([]*nft.Table, error) {
	instance, err := config.InstanceOf(c)
	if err != nil {
		return nil, err
	}
	tables, err := readTables(instance)
	if err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		return nil, fmt.Errorf("%w; nfproxy run creates them", report.NoTablesError(instance))
	}
	for _, t := range tables {
		if err := render.CheckSchema(t); err != nil {
			return nil, err
		}
	}
	return tables, nil
}

// client is the value of --from: an address, and maybe the interface that receives its packets. Without an address it is
// this node.
type client struct {
	addr          netip.Addr
	interfaceName string
}

func parseClient(text string) (client, error) {
	if text == "" {
		return client{}, nil
	}
	address, name, percent := strings.Cut(text, "%")
	addr, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return client{}, fmt.Errorf("--from %q is not ADDRESS[%%INTERFACE]", text)
	case addr.Is4In6():
		return client{}, fmt.Errorf("--from %q is an IPv4 address written as IPv6; write %s", text, addr.Unmap())
	case percent && name == "":
		return client{}, fmt.Errorf("--from %q has no interface after the %%", text)
	}
	return client{addr, name}, nil
}

// query returns the first packet of a connection from the client to a frontend, as this machine sees it. Remarks say what
// keeps the packet from this machine, or what is unknown.
func (c client) query(to render.Frontend) (report.Query, error) {
	p := nft.Packet{Hook: nft.Prerouting, Protocol: to.Protocol, Destination: to.AddrPort, Interface: c.interfaceName}
	q := report.Query{}
	if c.addr.IsValid() && c.addr.Is4() != to.Addr().Is4() {
		return q, fmt.Errorf("--from %s and --to %s have different address families", c.addr, to.AddrPort)
	}
	own, err := ownAddresses(to.Addr())
	if err != nil {
		return q, err
	}
	p.Local = func(a netip.Addr) bool { return own[a] }
	switch {
	case !c.addr.IsValid():
		p.Hook = nft.Output
		q.SourceWhy = "the default; --from sets another source"
		c.addr, q.Remarks, err = nodeAddress(to.Addr(), own)
	case c.addr.IsLoopback() || own[c.addr]:
		p.Hook = nft.Output
		if c.interfaceName != "" {
			err = fmt.Errorf("--from: %s is an address of this node; no interface receives its packets", c.addr)
		}
	case c.interfaceName != "":
		if _, missing := netlink.LinkByName(c.interfaceName); missing != nil {
			err = fmt.Errorf("--from: this network namespace has no interface %q: %w", c.interfaceName, missing)
		}
	default:
		p.Interface, q.Remarks = incomingInterface(c.addr)
	}
	p.Source = netip.AddrPortFrom(c.addr, 0)
	q.Packet = p
	return q, err
}

// ownAddresses returns the addresses of this machine's interfaces that have the address family of one.
func ownAddresses(one netip.Addr) (map[netip.Addr]bool, error) {
	family := netlink.FAMILY_V6
	if one.Is4() {
		family = netlink.FAMILY_V4
	}
	list, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil, fmt.Errorf("list interface addresses: %w", err)
	}
	own := make(map[netip.Addr]bool)
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			own[addr.Unmap()] = true
		}
	}
	return own, nil
}

// nodeAddress returns the source address that the kernel chooses for this node's own connections to a destination. Without
// a route it returns the lowest address that other machines could reach, and a remark that such connections fail.
func nodeAddress(to netip.Addr, own map[netip.Addr]bool) (netip.Addr, []string, error) {
	routes, err := netlink.RouteGet(net.IP(to.AsSlice()))
	if err == nil && len(routes) > 0 {
		if addr, ok := netip.AddrFromSlice(routes[0].Src); ok {
			return addr.Unmap(), nil, nil
		}
	}
	var lowest netip.Addr
	for addr := range own {
		if !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && (!lowest.IsValid() || addr.Less(lowest)) {
			lowest = addr
		}
	}
	if !lowest.IsValid() {
		return lowest, nil, errors.New("this node has no address that connections could come from; --from sets another source")
	}
	return lowest, []string{fmt.Sprintf("this node has no route to %s: its own connections fail before they reach a rule", to)}, nil
}

// incomingInterface returns the interface that receives the packets of a source: the one to which replies are routed.
func incomingInterface(source netip.Addr) (string, []string) {
	routes, err := netlink.RouteGet(net.IP(source.AsSlice()))
	if err == nil && len(routes) > 0 {
		if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			return link.Attrs().Name, nil
		}
	}
	const unknown = "this node has no route to %s: the receiving interface is unknown, and replies cannot reach the source"
	return "", []string{fmt.Sprintf(unknown, source)}
}
