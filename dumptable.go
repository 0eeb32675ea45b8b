package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// dumpTable prints a line for each frontend.
func dumpTable(w io.Writer, _ []*nft.Table, d render.Description) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tFRONTEND\tKIND\tACTION\tAFFINITY\tCONNECTIONS\tENDPOINTS")
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", portName(s), frontendName(s, f), orDash(f.Kind), f.Action, affinityTime(f),
				count(f.Connections), endpointsColumn(f, maxColumn))
		}
	}
	return t.Flush()
}

// dumpWide is dumpTable with all endpoints, and with the connections that were dropped.
func dumpWide(w io.Writer, _ []*nft.Table, d render.Description) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tFRONTEND\tKIND\tACTION\tAFFINITY\tCONNECTIONS\tDROPPED\tENDPOINTS")
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", portName(s), frontendName(s, f), orDash(f.Kind), f.Action, affinityTime(f),
				count(f.Connections), count(f.Dropped), endpointsColumn(f, len(f.Endpoints)+65536))
		}
	}
	return t.Flush()
}

// portName is NAMESPACE/NAME:PORT.
func portName(s render.DescribedService) string {
	if s.Port == "" {
		return s.Namespace + "/" + s.Name
	}
	return s.Namespace + "/" + s.Name + ":" + s.Port
}

func frontendName(s render.DescribedService, f render.DescribedFrontend) string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Address, f.Port), strings.ToLower(s.Protocol))
}

func affinityTime(f render.DescribedFrontend) string {
	if f.AffinitySeconds == 0 {
		return "-"
	}
	return (time.Duration(f.AffinitySeconds) * time.Second).String()
}

// maxColumn is how many endpoints a line of the table names.
const maxColumn = 5

// endpointsColumn names a frontend's endpoints, those of this node with a star; with policy Local, then those that outsiders
// reach.
func endpointsColumn(f render.DescribedFrontend, most int) string {
	text := orDash(list(f.Endpoints, most))
	if f.LocalEndpoints != nil {
		text += "; from outside " + orDash(list(*f.LocalEndpoints, most))
	}
	return text
}

func list(endpoints []render.DescribedEndpoint, most int) string {
	var names []string
	for i, e := range endpoints {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(endpoints)-most))
			break
		}
		name := e.String()
		if e.Local {
			name += "*"
		}
		if e.Connections != nil {
			name += fmt.Sprintf(" (%d)", *e.Connections)
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func count(n *uint64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func orDash[T ~string](s T) T {
	if s == "" {
		return "-"
	}
	return s
}
