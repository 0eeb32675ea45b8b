package cli

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

	"nfproxy/report"
)

// target is what --to says: an address and port, or a Service and maybe its port.
type target struct {
	at       netip.AddrPort // not valid for a Service
	protocol nft.Protocol   // 0 if not said
	service  render.ServiceName
	port     string
}

// targetService is how a Service is named: [NAMESPACE/]NAME[:PORT[/PROTOCOL]].
var targetService = regexp.MustCompile(`^(?:([a-z0-9-]+)/)?([a-z0-9.-]+)(?::([A-Za-z0-9-]+)(?:/([A-Za-z]+))?)?$`)

func parseTarget(text string) (target, error) {
	if text == "" {
		return target{}, errors.New("explain needs --to ADDRESS:PORT[/PROTOCOL], or --to [NAMESPACE/]SERVICE[:PORT]")
	}
	address, protocol, said := strings.Cut(text, "/")
	if at, err := netip.ParseAddrPort(address); err == nil {
		return addressTarget(text, at, protocol, said)
	}
	if addr, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
		return target{}, fmt.Errorf("--to: %q has no port; %s is how one is written", text, netip.AddrPortFrom(addr, 80))
	}
	m := targetService.FindStringSubmatch(text)
	if m == nil {
		return target{}, fmt.Errorf("--to: %q is neither ADDRESS:PORT[/PROTOCOL] nor [NAMESPACE/]SERVICE[:PORT[/PROTOCOL]]", text)
	}
	t := target{service: render.ServiceName{Namespace: m[1], Name: m[2]}, port: m[3]}
	if t.service.Namespace == "" {
		t.service.Namespace = "default"
	}
	if m[4] == "" {
		return t, nil
	}
	var err error
	if t.protocol, err = nft.ParseProtocol(m[4]); err != nil {
		return target{}, fmt.Errorf("--to: %w", err)
	}
	return t, nil
}

func addressTarget(text string, at netip.AddrPort, protocol string, said bool) (target, error) {
	switch {
	case said && protocol == "":
		return target{}, fmt.Errorf("--to: %q has a / and no protocol after it", text)
	case at.Addr().Is4In6():
		return target{}, fmt.Errorf("--to: %q is an IPv4 address written as IPv6", text)
	case at.Port() == 0:
		return target{}, fmt.Errorf("--to: %q: there is no port 0", text)
	}
	p, err := nft.ParseProtocol(protocol)
	if err != nil {
		return target{}, fmt.Errorf("--to: %w", err)
	}
	return target{at: netip.AddrPortFrom(at.Addr().WithZone(""), at.Port()), protocol: p}, nil
}

// resolve finds the address and port of a Service in the tables: its cluster IP, or what else it is reached at, of the
// client's family if the client is known.
func (t target) resolve(tables []*nft.Table, client netip.Addr) (target, error) {
	if t.at.IsValid() {
		return t, nil
	}
	ports := t.ports(report.Describe(tables).Services)
	switch {
	case len(ports) == 0 && t.port == "":
		return t, fmt.Errorf("the kernel has no Service %s: it does not exist, is headless, or nfproxy does not know it yet; "+
			"nfproxy dump lists all", t.service)
	case len(ports) == 0:
		return t, fmt.Errorf("the kernel has no port %s of a Service %s; nfproxy dump lists all", t.port, t.service)
	case len(ports) > 1:
		var names []string
		for _, p := range ports {
			names = append(names, fmt.Sprintf("%s:%s", t.service, portText(p)))
		}
		return t, fmt.Errorf("of the ports of Service %s which one: %s?", t.service, strings.Join(names, ", "))
	}
	frontends := slices.DeleteFunc(slices.Clone(ports[0].Frontends), func(f report.Frontend) bool {
		return client.IsValid() && f.Address.Is4() != client.Is4()
	})
	if len(frontends) == 0 {
		return t, fmt.Errorf("there is no address of Service %s of the family of %s", t.service, client)
	}
	best := frontends[0]
	if i := slices.IndexFunc(frontends, func(f report.Frontend) bool { return f.Kind == render.ClusterIP }); i >= 0 {
		best = frontends[i]
	}
	t.protocol, _ = nft.ParseProtocol(ports[0].Protocol)
	t.at = netip.AddrPortFrom(best.Address, best.Port)
	return t, nil
}

// ports lists the Service's ports that are meant.
func (t target) ports(all []report.ServicePort) []report.ServicePort {
	return slices.DeleteFunc(slices.Clone(all), func(s report.ServicePort) bool {
		number := func(f report.Frontend) bool {
			return strconv.Itoa(int(f.Port)) == t.port && f.Kind != render.NodePort
		}
		meant := t.port == "" || s.Port == t.port || slices.ContainsFunc(s.Frontends, number)
		if protocol, _ := nft.ParseProtocol(s.Protocol); t.protocol != 0 && protocol != t.protocol {
			meant = false
		}
		return !meant || s.Namespace != t.service.Namespace || s.Name != t.service.Name
	})
}

// portText is a port as --to takes it.
func portText(s report.ServicePort) string {
	port := s.Port
	if port == "" && len(s.Frontends) > 0 {
		port = strconv.Itoa(int(s.Frontends[0].Port))
	}
	return port + "/" + strings.ToLower(s.Protocol)
}

// tableOf is the table of an address's family, nil if there is none.
func tableOf(tables []*nft.Table, a netip.Addr) *nft.Table {
	i := slices.IndexFunc(tables, func(t *nft.Table) bool { return t.Family == render.Family(a) })
	if i < 0 {
		return nil
	}
	return tables[i]
}
