package trace

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"nfproxy/nft"

	"nfproxy/report"
)

// Target is what packets are to be followed to: one address and port, or a Service.
type Target struct {
	// At is the address and port, the zero value for a Service.
	At Destination
	// Namespace and Name are the Service's. Port is a name or a number, empty for all ports.
	Namespace, Name, Port string
}

// ParseTarget reads "ADDRESS:PORT", with "/udp" or "/sctp" after it if it is not TCP, or "[NAMESPACE/]NAME[:PORT]".
func ParseTarget(text string) (Target, error) {
	address, protocol, hasProtocol := strings.Cut(text, "/")
	if at, err := netip.ParseAddrPort(address); err == nil {
		p, err := nft.ParseProtocol(protocol)
		if err != nil || hasProtocol && protocol == "" {
			return Target{}, fmt.Errorf("%q: protocol %q is none of tcp, udp, sctp", text, protocol)
		}
		if at.Addr().Is4In6() || at.Addr().Zone() != "" || at.Port() == 0 {
			return Target{}, fmt.Errorf("%q is no address and port of a Service", text)
		}
		return Target{At: Destination{Protocol: p, AddrPort: at}}, nil
	}
	if _, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return Target{}, fmt.Errorf("%q has no port: ADDRESS:PORT, or [ADDRESS]:PORT for IPv6", text)
	}
	t := Target{Namespace: "default", Name: text}
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		t.Namespace, t.Name = namespace, name
	}
	hasPort := false
	t.Name, t.Port, hasPort = strings.Cut(t.Name, ":")
	if !isLabel(t.Namespace) || !isLabel(t.Name) || hasPort && !isLabel(t.Port) {
		return Target{}, fmt.Errorf("%q is neither ADDRESS:PORT[/udp|sctp] nor [NAMESPACE/]NAME[:PORT]", text)
	}
	return t, nil
}

// isLabel says whether the text has nothing but what names of Kubernetes have (RFC 1123 labels).
func isLabel(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// String is the target as it was given.
func (t Target) String() string {
	if t.Name == "" {
		return t.At.String()
	}
	text := t.Namespace + "/" + t.Name
	if t.Port != "" {
		text += ":" + t.Port
	}
	return text
}

// Destinations are the frontends of the target. An address and port need not be one.
func (t Target) Destinations(d report.Description) ([]Destination, error) {
	if t.Name == "" {
		return []Destination{t.At}, nil
	}
	var found []Destination
	known := false
	for _, s := range d.Services {
		if s.Namespace != t.Namespace || s.Name != t.Name {
			continue
		}
		if known = true; !t.hasPort(s) {
			continue
		}
		for _, f := range s.Frontends {
			found = append(found, destination(s, f))
		}
	}
	switch {
	case !known:
		return nil, fmt.Errorf("the tables have no Service %s/%s", t.Namespace, t.Name)
	case len(found) == 0:
		return nil, fmt.Errorf("the Service %s/%s has no port %q", t.Namespace, t.Name, t.Port)
	}
	return found, nil
}

// hasPort says whether the target is that port of the Service, by its name or by the number of one of its frontends.
func (t Target) hasPort(s report.ServicePort) bool {
	if t.Port == "" || t.Port == s.Port {
		return true
	}
	for _, f := range s.Frontends {
		if strconv.Itoa(int(f.Port)) == t.Port {
			return true
		}
	}
	return false
}

func destination(s report.ServicePort, f report.Frontend) Destination {
	p, _ := nft.ParseProtocol(s.Protocol) // the kernel's rules have no other
	return Destination{Protocol: p, AddrPort: netip.AddrPortFrom(f.Address, f.Port)}
}

// serviceNames are the names of the Services' ports by their frontends.
func serviceNames(d report.Description) map[Destination]string {
	names := make(map[Destination]string)
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			names[destination(s, f)] = Target{Namespace: s.Namespace, Name: s.Name, Port: s.Port}.String()
		}
	}
	return names
}

// check refuses sources that no packet to the destinations can have.
func check(from netip.Prefix, to []Destination) error {
	for _, d := range to {
		if !from.IsValid() || from.Addr().Is4() == d.Addr().Is4() {
			return nil
		}
	}
	return errors.New(from.String() + " is of another address family than what the packets go to")
}
