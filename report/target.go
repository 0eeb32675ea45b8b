package report

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"nfproxy/nft"
	"nfproxy/render"
)

// TargetSyntax is what ParseTarget accepts. For IPv6, ADDRESS is in brackets.
const TargetSyntax = "ADDRESS:PORT[/PROTOCOL] or [NAMESPACE/]NAME[:PORT[/PROTOCOL]]"

// Target is what a command is asked about: an address and port, or a Service and maybe one of its ports. The zero Target
// stands for everything.
type Target struct {
	// At is the address and port, the zero value for a Service.
	At netip.AddrPort
	// Service is the Service, the zero value for an address.
	Service render.ServiceName
	// Port is the name of a port of the Service, or the number of one of its frontends. Empty for all ports.
	Port string
	// Protocol is 0 if none was given. For an address, Select then takes every protocol, Frontend and Frontends take TCP.
	Protocol nft.Protocol
}

var serviceTarget = regexp.MustCompile(`^(?:([a-z0-9-]+)/)?([a-z0-9-]+)(?::([A-Za-z0-9-]+)(?:/([A-Za-z]+))?)?$`)

// ParseTarget parses TargetSyntax. A name without a namespace is in the namespace "default". Errors begin with the text in
// quotation marks, so that callers can put the name of their flag or argument before it.
func ParseTarget(text string) (Target, error) {
	address, protocol, slash := strings.Cut(text, "/")
	if at, err := netip.ParseAddrPort(address); err == nil {
		return parseAddressTarget(text, at, protocol, slash)
	}
	if addr, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return Target{}, fmt.Errorf("%q has no port; write %s, for example", text, netip.AddrPortFrom(addr, 80))
	}
	m := serviceTarget.FindStringSubmatch(text)
	if m == nil {
		return Target{}, fmt.Errorf("%q is neither %s", text, strings.Replace(TargetSyntax, " or ", " nor ", 1))
	}
	t := Target{Service: render.ServiceName{Namespace: m[1], Name: m[2]}, Port: m[3]}
	if t.Service.Namespace == "" {
		t.Service.Namespace = "default"
	}
	var err error
	if t.Protocol, err = parseTargetProtocol(text, m[4]); err != nil {
		return Target{}, err
	}
	return t, nil
}

func parseAddressTarget(text string, at netip.AddrPort, protocol string, slash bool) (Target, error) {
	switch addr := at.Addr(); {
	case slash && protocol == "":
		return Target{}, fmt.Errorf("%q has no protocol after the slash", text)
	case addr.Is4In6():
		return Target{}, fmt.Errorf("%q is an IPv4 address written as IPv6; write %s", text, netip.AddrPortFrom(addr.Unmap(), at.Port()))
	case addr.Zone() != "":
		return Target{}, fmt.Errorf("%q has a zone; the address of a Service has none", text)
	case at.Port() == 0:
		return Target{}, fmt.Errorf("%q has port 0; ports are 1 to 65535", text)
	}
	p, err := parseTargetProtocol(text, protocol)
	if err != nil {
		return Target{}, err
	}
	return Target{At: at, Protocol: p}, nil
}

func parseTargetProtocol(text, protocol string) (nft.Protocol, error) {
	if protocol == "" {
		return 0, nil
	}
	p, err := nft.ParseProtocol(protocol)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", text, err)
	}
	return p, nil
}

// String returns the target in TargetSyntax, with the namespace.
func (t Target) String() string {
	var text string
	switch {
	case t.At.IsValid():
		text = t.At.String()
	case t.Port != "":
		text = t.Service.String() + ":" + t.Port
	default:
		text = t.Service.String()
	}
	if t.Protocol != 0 {
		text += "/" + t.Protocol.String()
	}
	return text
}

// Select returns what d has of the target. It returns an error if that is nothing, unless the Target is zero.
func (t Target) Select(d Description) (Description, error) {
	if t == (Target{}) {
		return d, nil
	}
	all := d.Services
	d.Services = []ServicePort{}
	for _, s := range all {
		if !t.names(s) {
			continue
		}
		if t.At.IsValid() {
			s.Frontends = slices.DeleteFunc(slices.Clone(s.Frontends), func(f Frontend) bool { return f.addrPort() != t.At })
		}
		if len(s.Frontends) > 0 {
			d.Services = append(d.Services, s)
		}
	}
	if len(d.Services) == 0 {
		return d, t.notFound(all)
	}
	return d, nil
}

// Frontends returns all frontends of the target. An address and port is returned whether or not a Service has it.
func (t Target) Frontends(d Description) ([]render.Frontend, error) {
	if t.At.IsValid() {
		return []render.Frontend{t.address()}, nil
	}
	selected, err := t.Select(d)
	if err != nil {
		return nil, err
	}
	var all []render.Frontend
	for _, s := range selected.Services {
		for _, f := range s.Frontends {
			all = append(all, s.frontend(f))
		}
	}
	return all, nil
}

// Frontend returns one frontend of the target, for a connection from client; an invalid client stands for one of either
// family. Of a Service it is the cluster IP if the Service port has one of the client's family. An address and port is
// returned whether or not a Service has it. It is an error if the target names several ports of a Service.
func (t Target) Frontend(d Description, client netip.Addr) (render.Frontend, error) {
	if t.At.IsValid() {
		return t.address(), nil
	}
	selected, err := t.Select(d)
	if err != nil {
		return render.Frontend{}, err
	}
	if ports := selected.Services; len(ports) > 1 {
		var names []string
		for _, s := range ports {
			names = append(names, t.Service.String()+":"+s.portText())
		}
		return render.Frontend{}, fmt.Errorf("%s names several ports; choose one of %s", t, strings.Join(names, ", "))
	}
	port := selected.Services[0]
	frontends := slices.DeleteFunc(slices.Clone(port.Frontends), func(f Frontend) bool {
		return client.IsValid() && f.Address.Is4() != client.Is4()
	})
	if len(frontends) == 0 {
		return render.Frontend{}, fmt.Errorf("no address of Service %s has the address family of %s", t.Service, client)
	}
	if t.hasNumber(frontends...) {
		frontends = slices.DeleteFunc(frontends, func(f Frontend) bool { return !t.hasNumber(f) })
	}
	best := max(0, slices.IndexFunc(frontends, func(f Frontend) bool { return f.Kind == render.ClusterIP }))
	return port.frontend(frontends[best]), nil
}

// address is the frontend of a Target that is an address and port.
func (t Target) address() render.Frontend {
	if t.Protocol == 0 {
		t.Protocol = nft.TCP
	}
	return render.Frontend{AddrPort: t.At, Protocol: t.Protocol}
}

// names reports whether the target names the Service port, or may be the address of one of its frontends.
func (t Target) names(s ServicePort) bool {
	if t.Protocol != 0 && !strings.EqualFold(t.Protocol.String(), s.Protocol) {
		return false
	}
	if t.At.IsValid() {
		return true
	}
	return s.Namespace == t.Service.Namespace && s.Name == t.Service.Name &&
		(t.Port == "" || t.Port == s.Port || t.hasNumber(s.Frontends...))
}

// hasNumber reports whether the target's port is the number of one of the frontends.
func (t Target) hasNumber(frontends ...Frontend) bool {
	return slices.ContainsFunc(frontends, func(f Frontend) bool { return strconv.Itoa(int(f.Port)) == t.Port })
}

func (t Target) notFound(all []ServicePort) error {
	known := slices.ContainsFunc(all, func(s ServicePort) bool {
		return s.Namespace == t.Service.Namespace && s.Name == t.Service.Name
	})
	port := t.Port
	if t.Protocol != 0 {
		port += "/" + t.Protocol.String()
	}
	switch {
	case t.At.IsValid():
		return fmt.Errorf("the kernel's tables have no frontend %s; nfproxy dump lists all", t)
	case known:
		return fmt.Errorf("the kernel's tables have no port %s of Service %s; nfproxy dump lists all", port, t.Service)
	}
	return errors.New("the kernel's tables have no Service " + t.Service.String() +
		": it does not exist, is headless, or is not programmed yet; nfproxy dump lists all")
}

// portText is the Service port as ParseTarget accepts it after the Service's name.
func (s ServicePort) portText() string {
	port := s.Port
	if port == "" && len(s.Frontends) > 0 {
		port = strconv.Itoa(int(s.Frontends[0].Port))
	}
	return port + "/" + strings.ToLower(s.Protocol)
}

func (s ServicePort) frontend(f Frontend) render.Frontend {
	p, _ := nft.ParseProtocol(s.Protocol) // the tables have no other protocols
	return render.Frontend{AddrPort: f.addrPort(), Protocol: p}
}

func (f Frontend) addrPort() netip.AddrPort { return netip.AddrPortFrom(f.Address, f.Port) }
