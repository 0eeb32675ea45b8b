package cli

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/urfave/cli/v2"

	"nfproxy/nft"

	"nfproxy/report"
)

// selection is what a command is asked to print.
type selection struct {
	families        map[nft.Family]bool
	namespace, name string         // of a Service; empty for any
	at              netip.AddrPort // of a frontend; invalid for any
}

func newSelection(c *cli.Context) (selection, error) {
	s := selection{families: map[nft.Family]bool{nft.IPv4: true, nft.IPv6: true}}
	switch family := c.String("family"); family {
	case "":
	case "ip", "ip6":
		s.families = map[nft.Family]bool{nft.IPv4: family == "ip", nft.IPv6: family == "ip6"}
	default:
		return s, fmt.Errorf("--family is ip or ip6, not %s", family)
	}
	if c.NArg() > 1 {
		return s, fmt.Errorf("%s takes one Service or address; flags go before it: %q", c.Command.Name, c.Args().Get(1))
	}
	argument := c.Args().First()
	if at, err := netip.ParseAddrPort(argument); err == nil {
		s.at = at
		return s, nil
	}
	if namespace, name, ok := strings.Cut(argument, "/"); ok {
		s.namespace, s.name = namespace, name
	} else {
		s.name = argument
	}
	if strings.HasPrefix(argument, "-") || strings.ContainsAny(argument, ":[] ") {
		return s, fmt.Errorf("%q is neither [NAMESPACE/]NAME nor ADDRESS:PORT", argument)
	}
	return s, nil
}

// some says that not all Services are wanted.
func (s selection) some() bool { return s.name != "" || s.namespace != "" || s.at.IsValid() }

// of returns what is wanted of a description.
func (s selection) of(d report.Description) report.Description {
	if !s.some() {
		return d
	}
	all := d.Services
	d.Services = []report.ServicePort{}
	for _, service := range all {
		var frontends []report.Frontend
		for _, f := range service.Frontends {
			if !s.at.IsValid() || s.at == netip.AddrPortFrom(f.Address, f.Port) {
				frontends = append(frontends, f)
			}
		}
		named := (s.namespace == "" || s.namespace == service.Namespace) && (s.name == "" || s.name == service.Name)
		if service.Frontends = frontends; named && len(frontends) > 0 {
			d.Services = append(d.Services, service)
		}
	}
	return d
}
