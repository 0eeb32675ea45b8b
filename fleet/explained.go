package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"nfproxy/render"
	"nfproxy/report"
)

// ExplainedKey returns the key of what a node would do with a connection. It leaves out what legitimately differs between nodes: the
// node's own address and interfaces, which endpoints are local, the rule by which one of them is reached, how many clients session
// affinity remembers, and masquerading to local endpoints.
func ExplainedKey(node string, e report.Explanation) Key {
	var b strings.Builder
	fmt.Fprintln(&b, e.From.Origin, e.Outcome, e.Answer, e.To, e.Why, e.Problems)
	if s := e.Service; s != nil {
		fmt.Fprintln(&b, s.Namespace, s.Name, s.Port, s.Kind, s.Action)
	}
	if a := e.Affinity; a != nil {
		fmt.Fprintln(&b, a.Seconds, a.State, a.Endpoint)
	}
	for _, c := range sortedCandidates(e.Endpoints) {
		fmt.Fprintf(&b, "%s:%d %.6f\n", c.Address, c.Port, c.Chance)
	}
	return Key{Node: node, Text: b.String(), Detail: masquerading(e.Endpoints)}
}

// sortedCandidates returns the endpoints by address.
func sortedCandidates(all []report.Candidate) []report.Candidate {
	return slices.SortedFunc(slices.Values(all), func(a, b report.Candidate) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
}

// masquerading returns how connections to endpoints on other nodes are masqueraded, empty if there are none.
func masquerading(all []report.Candidate) string {
	var ways []string
	for _, c := range all {
		if c.Local || c.MasqueradeWhy == report.IsHairpin {
			continue
		}
		way := fmt.Sprint(c.Masqueraded, c.MasqueradeWhy)
		if !slices.Contains(ways, way) {
			ways = append(ways, way)
		}
	}
	slices.Sort(ways)
	return strings.Join(ways, "\n")
}

// DumpedKey returns the key of a node's frontends. It leaves out the order of the endpoints, which of them are local, counters, and the
// addresses of node ports.
func DumpedKey(node string, d report.Description) Key {
	var lines []string
	for _, s := range d.Services {
		for _, f := range s.Frontends {
			line := fmt.Sprint(report.PortName(s), " ", s.Protocol, " ", frontendAddress(f), ":", f.Port, " ", f.Kind, " ", f.Action, " ",
				f.AffinitySeconds, " ", f.HashOn, " ", endpointsText(f.Endpoints))
			if f.LocalEndpoints != nil {
				line += " outside: " + endpointsText(*f.LocalEndpoints)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return Key{Node: node, Text: fmt.Sprintln(d.Tables, "\n"+strings.Join(lines, "\n"))}
}

// frontendAddress returns the address of a frontend, without that of a node port, which is the node's.
func frontendAddress(f report.Frontend) string {
	if f.Kind == render.NodePort {
		if f.Address.Is4() {
			return "node's IPv4"
		}
		return "node's IPv6"
	}
	return f.Address.String()
}

// endpointsText returns the sorted endpoints with their weights.
func endpointsText(all []report.Endpoint) string {
	var texts []string
	for _, e := range all {
		texts = append(texts, fmt.Sprintf("%s*%d", e, max(e.Weight, 1)))
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// AddCounters adds the counters of other nodes to those of a node with an equal key, frontend by frontend and endpoint by endpoint.
func AddCounters(to report.Description, others ...report.Description) {
	type place struct{ service, frontend string }
	frontends := make(map[place]*report.Frontend)
	for _, s := range to.Services {
		for i := range s.Frontends {
			f := &s.Frontends[i]
			frontends[place{report.PortName(s) + s.Protocol, fmt.Sprint(frontendAddress(*f), f.Port)}] = f
		}
	}
	for _, d := range others {
		for _, s := range d.Services {
			for _, f := range s.Frontends {
				sum := frontends[place{report.PortName(s) + s.Protocol, fmt.Sprint(frontendAddress(f), f.Port)}]
				if sum == nil {
					continue
				}
				addCounter(sum.Connections, f.Connections)
				addCounter(sum.Dropped, f.Dropped)
				addEndpointCounters(sum.Endpoints, f.Endpoints)
				if sum.LocalEndpoints != nil && f.LocalEndpoints != nil {
					addEndpointCounters(*sum.LocalEndpoints, *f.LocalEndpoints)
				}
			}
		}
	}
}

func addEndpointCounters(to, from []report.Endpoint) {
	for i := range to {
		j := slices.IndexFunc(from, func(e report.Endpoint) bool { return e.String() == to[i].String() })
		if j >= 0 {
			addCounter(to[i].Connections, from[j].Connections)
		}
	}
}

func addCounter(to, from *uint64) {
	if to != nil && from != nil {
		*to += *from
	}
}
