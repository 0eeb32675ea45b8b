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

	"nfproxy/nft"
)

// dumpTable prints a line for each frontend.
func WriteTable(w io.Writer, _ []*nft.Table, d Description) error {
	return printFrontends(w, d, false)
}

// dumpWide is dumpTable with all endpoints, and with the connections that were dropped.
func WriteWide(w io.Writer, _ []*nft.Table, d Description) error {
	return printFrontends(w, d, true)
}

func printFrontends(w io.Writer, d Description, wide bool) error {
	most := maxColumn
	if wide {
		most = math.MaxInt
	}
	all := bufio.NewWriter(w) // tabwriter writes every cell by itself
	t := tabwriter.NewWriter(all, 0, 0, 3, ' ', 0)
	header := []string{"SERVICE", "FRONTEND", "KIND", "ACTION", "AFFINITY", "CONNECTIONS"}
	if wide {
		header = append(header, "DROPPED")
	}
	fmt.Fprintln(t, strings.Join(append(header, "ENDPOINTS"), "\t"))
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			cells := []string{PortName(s), frontendName(s, f), string(OrDash(f.Kind)), f.Action, affinityTime(f), count(f.Connections)}
			if wide {
				cells = append(cells, count(f.Dropped))
			}
			_, _ = io.WriteString(t, strings.Join(append(cells, endpointsColumn(f, most)), "\t")+"\n") // what fails, fails at the end
		}
	}
	return errors.Join(t.Flush(), all.Flush())
}

// portName is NAMESPACE/NAME:PORT.
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

// maxColumn is how many endpoints a line of the table names.
const maxColumn = 5

// endpointsColumn names a frontend's endpoints, those of this node with a star; with policy Local, then those that outsiders
// reach.
func endpointsColumn(f Frontend, most int) string {
	text := OrDash(list(f.Endpoints, most))
	if f.LocalEndpoints != nil {
		text += "; from outside " + OrDash(list(*f.LocalEndpoints, most))
	}
	return text
}

func list(endpoints []Endpoint, most int) string {
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
	return strconv.FormatUint(*n, 10)
}

func OrDash[T ~string](s T) T {
	if s == "" {
		return "-"
	}
	return s
}
