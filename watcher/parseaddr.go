package watcher

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/utils/net"
)

// parseAddr parses an address as leniently as kube-proxy (010.0.0.1 is 10.0.0.1). It rejects addresses that packets to a
// Service or an endpoint never carry; the API server rejects most of them for endpoints and external IPs, too
// (ValidateEndpointIP in pkg/apis/core/validation).
func parseAddr(s string) (netip.Addr, error) {
	addr, err := parseClusterIP(s)
	if err == nil && addr.IsLinkLocalUnicast() {
		return netip.Addr{}, fmt.Errorf("%s is a link-local address", addr)
	}
	return addr, err
}

// parseClusterIP is like parseAddr, but accepts link-local addresses: the API server allocates cluster IPs from any range that
// it is given.
func parseClusterIP(s string) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(s))
	if !ok {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	if addr = addr.Unmap(); addr.Is4() && strings.Contains(s, ":") {
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address written as IPv6", s)
	}
	switch {
	case addr.IsUnspecified():
		return netip.Addr{}, fmt.Errorf("%s is the unspecified address", addr)
	case addr.IsLoopback():
		return netip.Addr{}, fmt.Errorf("%s is a loopback address", addr)
	case addr.IsMulticast():
		return netip.Addr{}, fmt.Errorf("%s is a multicast address", addr)
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s is the broadcast address", addr)
	}
	return addr, nil
}

// parsePrefix parses a range as leniently as kube-proxy: with surrounding spaces, which the API server accepts, and with
// host bits, which are cleared.
func parsePrefix(s string) (netip.Prefix, error) {
	_, ipNet, err := utilnet.ParseCIDRSloppy(strings.TrimSpace(s))
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", s)
	}
	addr, _ := netip.AddrFromSlice(ipNet.IP)
	if addr.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 range written as IPv6", s)
	}
	bits, _ := ipNet.Mask.Size()
	return netip.PrefixFrom(addr, bits), nil
}

// addrList holds the addresses of an object without duplicates. There can be a hundred thousand, hence the map.
type addrList struct {
	list []netip.Addr
	has  map[netip.Addr]bool
}

// add parses an address and appends it. An invalid or repeated address is recorded as a problem of the field instead.
func (l *addrList) add(text, field string, problems problemList) {
	addr, err := parseAddr(text)
	if err == nil && l.has[addr] {
		err = fmt.Errorf("%s is listed twice", addr)
	}
	if err != nil {
		problems.add(field, err.Error())
		return
	}
	if l.has == nil {
		l.has = make(map[netip.Addr]bool)
	}
	l.list, l.has[addr] = append(l.list, addr), true
}

// ofFamily returns the first IPv4 or IPv6 address.
func ofFamily(addrs []netip.Addr, is4 bool) (netip.Addr, bool) {
	for _, addr := range addrs {
		if addr.Is4() == is4 {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// family returns the address family as the API names it.
func family(addr netip.Addr) string {
	if addr.Is4() {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
}
