package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteTable prints one line for each frontend.
func WriteTable(w io.Writer, d Description) error {
	return printFrontends(w, d, false)
}

// WriteWide prints the lines of WriteTable with all endpoints and with the number of dropped connections.
func WriteWide(w io.Writer, d Description) error {
	return printFrontends(w, d, true)
}

func printFrontends(w io.Writer, d Description, wide bool) error {
	most := maxListed
	if wide {
		most = math.MaxInt
	}
	all := bufio.NewWriter(w) // tabwriter writes each cell separately
	t := tabwriter.NewWriter(all, 0, 0, 3, ' ', 0)
	header := []string{"SERVICE", "FRONTEND", "KIND", "ACTION", "AFFINITY", "CONNECTIONS"}
	if wide {
		header = append(header, "DROPPED")
	}
	row(t, append(header, "ENDPOINTS")...) // Flush returns the error
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			cells := []string{PortName(s), frontendName(s, f), string(OrDash(f.Kind)), f.Action, affinityTime(f), count(f.Connections)}
			if wide {
				cells = append(cells, count(f.Dropped))
			}
			row(t, append(cells, endpointsColumn(f, most))...)
		}
	}
	return errors.Join(t.Flush(), all.Flush())
}

// PortName returns NAMESPACE/NAME:PORT, or NAMESPACE/NAME of an unnamed port.
func PortName(s ServicePort) string {
	if s.Port == "" {
		return s.Namespace + "/" + s.Name
	}
	return s.Namespace + "/" + s.Name + ":" + s.Port
}

func frontendName(s ServicePort, f Frontend) string {
	return netip.AddrPortFrom(f.Address, f.Port).String() + "/" + strings.ToLower(s.Protocol)
}

func affinityTime(f Frontend) string {
	if f.AffinitySeconds == 0 {
		return "-"
	}
	return (time.Duration(f.AffinitySeconds) * time.Second).String()
}

// maxListed is the largest number of endpoints that one line names, unless it is wide.
const maxListed = 5

// endpointsColumn lists a frontend's endpoints, with a star after those on this node and the weights that are not 1. With externalTrafficPolicy Local, the
// endpoints for connections from outside follow, then what the choice follows from if it is not random, and the limits.
func endpointsColumn(f Frontend, most int) string {
	text := OrDash(list(f, f.Endpoints, most))
	if f.LocalEndpoints != nil {
		text += "; from outside " + OrDash(list(f, *f.LocalEndpoints, most))
	}
	if f.HashOn != "" {
		text += "; maglev by " + f.HashOn
	}
	if f.Limits != nil {
		text += fmt.Sprintf("; %s (%d above: %s)", f.Limits, f.Limits.exceeded(), f.Limits.Over)
	}
	return text
}

// list names endpoints of a frontend, at most so many.
func list(f Frontend, endpoints []Endpoint, most int) string {
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
		switch {
		case f.HashOn != "":
			name += fmt.Sprintf(" %d slots", max(e.Weight, 1))
		case e.Weight > 0:
			name += fmt.Sprintf(" weight %d", e.Weight)
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
	return strconv.FormatUint(*n, 10)
}

// OrDash returns s, or a dash if s is empty.
func OrDash[T ~string](s T) T {
	if s == "" {
		return "-"
	}
	return s
}
