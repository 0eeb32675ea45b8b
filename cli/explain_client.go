package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"

	"nfproxy/nft"
)

// client is what --from says: an address and maybe the interface its packets come in by. Without an address it is this
// node.
type client struct {
	addr netip.Addr
	link string
}

func parseClient(text string) (client, error) {
	if text == "" {
		return client{}, nil
	}
	address, link, said := strings.Cut(text, "%")
	addr, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return client{}, fmt.Errorf("--from: %q is no address with, maybe, %%INTERFACE after it", text)
	case addr.Is4In6():
		return client{}, fmt.Errorf("--from: %q is an IPv4 address written as IPv6", text)
	case said && link == "":
		return client{}, fmt.Errorf("--from: %q has a %% and no interface after it", text)
	}
	return client{addr, link}, nil
}

// packet is the first packet of a connection from the client to the target, as this machine sees it. Remarks are what keeps
// it from being seen, or what could not be found out.
func (c client) packet(to target) (p nft.Packet, remarks []string, err error) {
	p = nft.Packet{Hook: nft.Prerouting, Protocol: to.protocol, Destination: to.at, Interface: c.link}
	if c.addr.IsValid() && c.addr.Is4() != to.at.Addr().Is4() {
		return p, nil, fmt.Errorf("--from %s and --to %s are not of one family", c.addr, to.at)
	}
	own, err := ownAddresses(to.at.Addr())
	if err != nil {
		return p, nil, err
	}
	switch {
	case !c.addr.IsValid():
		c.addr, remarks, err = nodeAddress(to.at.Addr(), own)
		p.Hook = nft.Output
	case c.addr.IsLoopback() || own[c.addr]:
		p.Hook = nft.Output
		if c.link != "" {
			err = fmt.Errorf("--from: %s is this node's own address; its packets come in by no interface", c.addr)
		}
	case c.link != "":
		if _, missing := netlink.LinkByName(c.link); missing != nil {
			err = fmt.Errorf("--from: there is no interface %q here: %w", c.link, missing)
		}
	default:
		p.Interface, remarks = incoming(c.addr)
	}
	p.Source = netip.AddrPortFrom(c.addr, 0)
	return p, remarks, err
}

// ownAddresses are the addresses of this machine's interfaces that are of the family of one.
func ownAddresses(one netip.Addr) (map[netip.Addr]bool, error) {
	family := netlink.FAMILY_V6
	if one.Is4() {
		family = netlink.FAMILY_V4
	}
	list, err := netlink.AddrList(nil, family)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the interfaces: %w", err)
	}
	own := make(map[netip.Addr]bool)
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			own[addr.Unmap()] = true
		}
	}
	return own, nil
}

// nodeAddress is the source address the kernel takes for this node's own connections to a destination. Where it has no
// route it is the first that others could reach, and a remark says that such connections fail.
func nodeAddress(to netip.Addr, own map[netip.Addr]bool) (netip.Addr, []string, error) {
	routes, err := netlink.RouteGet(net.IP(to.AsSlice()))
	if err == nil && len(routes) > 0 {
		if addr, ok := netip.AddrFromSlice(routes[0].Src); ok {
			return addr.Unmap(), nil, nil
		}
	}
	var first netip.Addr
	for addr := range own {
		if !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && (!first.IsValid() || addr.Less(first)) {
			first = addr
		}
	}
	if !first.IsValid() {
		return first, nil, errors.New("this node has no address that connections could come from; --from says another source")
	}
	return first, []string{fmt.Sprintf("this node has no route to %s: its own connections fail before any rule is asked", to)}, nil
}

// incoming is the interface that packets of a source come in by: the one that answers go out by.
func incoming(source netip.Addr) (string, []string) {
	routes, err := netlink.RouteGet(net.IP(source.AsSlice()))
	if err == nil && len(routes) > 0 {
		if link, err := netlink.LinkByIndex(routes[0].LinkIndex); err == nil {
			return link.Attrs().Name, nil
		}
	}
	const unknown = "this node has no route to %s: the interface it comes in by is not known, and answers cannot reach it"
	return "", []string{fmt.Sprintf(unknown, source)}
}
