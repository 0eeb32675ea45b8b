package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
)

// hintedEndpoint parses an endpoint such as "1 ready local zone=a zone=b node=n": the last byte of its address, and its
// conditions and hints.
func hintedEndpoint(text string) Endpoint {
	words := strings.Fields(text)
	e := Endpoint{AddrPort: netip.MustParseAddrPort("10.0.0." + words[0] + ":80"), Node: "other"}
	for _, w := range words[1:] {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "ready":
			e.Ready, e.Serving = true, true
		case "draining":
			e.Serving, e.Terminating = true, true
		case "dead":
			e.Terminating = true
		case "six":
			e.AddrPort = netip.MustParseAddrPort("[fd00::" + words[0] + "]:80")
		case "local":
			e.Node = "n"
		default:
			if e.Hints == nil {
				e.Hints = &Hints{}
			}
			if key == "zone" {
				e.Hints.Zones = append(e.Hints.Zones, value)
			} else {
				e.Hints.Nodes = append(e.Hints.Nodes, value)
			}
		}
	}
	return e
}

// TestSelect: Select chooses the same endpoints as kube-proxy's CategorizeEndpoints, and returns the reason.
func TestSelect(t *testing.T) {
	for _, c := range []struct {
		endpoints            string
		cluster, local       string
		whyCluster, whyLocal Reason
	}{
		{"", "", "", NoEndpoint, NoEndpointLocal},
		{"1 ready six", "", "", NoEndpointFamily, NoEndpointLocal},
		{"1, 2 ready six", "", "", NoEndpointReady, NoEndpointLocal},
		{"2 ready, 1 ready local, 3", "1 2", "1", ReadyEndpoints, ReadyEndpoints},
		{"1 ready, 1 ready", "1", "", ReadyEndpoints, NoEndpointLocal},
		// terminating endpoints serve when none is ready, in the cluster and on the node independently
		{"1 draining, 2 draining local, 3 dead", "1 2", "2", TerminatingEndpoints, TerminatingEndpoints},
		{"1 ready, 2 draining local", "1", "2", ReadyEndpoints, TerminatingEndpoints},
		{"1 ready local, 2 draining", "1", "1", ReadyEndpoints, ReadyEndpoints},
		{"1 dead local", "", "", NoEndpointReady, NoEndpointLocal},
		// zone hints apply if all endpoints have some and one names this zone; local endpoints ignore them
		{"1 ready zone=z, 2 ready zone=y, 3 ready zone=y zone=z", "1 3", "", ZoneEndpoints, NoEndpointLocal},
		{"1 ready zone=z, 2 ready", "1 2", "", ReadyEndpoints, NoEndpointLocal},
		{"1 ready zone=y, 2 ready zone=x", "1 2", "", ReadyEndpoints, NoEndpointLocal},
		{"1 ready zone=z, 2 ready local zone=y", "1", "2", ZoneEndpoints, ReadyEndpoints},
		{"1 ready zone=z, 2 draining", "1", "", ZoneEndpoints, NoEndpointLocal},
		// node hints take precedence
		{"1 ready zone=z node=m, 2 ready zone=y node=n", "2", "", NodeEndpoints, NoEndpointLocal},
		{"1 ready zone=z node=m, 2 ready zone=y node=m", "1", "", ZoneEndpoints, NoEndpointLocal},
		{"1 ready zone=z node=n, 2 ready zone=y", "1", "", ZoneEndpoints, NoEndpointLocal},
	} {
		var p Port
		for text := range strings.SplitSeq(c.endpoints, ",") {
			if text != "" {
				p.Endpoints = append(p.Endpoints, hintedEndpoint(text))
			}
		}
		for range 2 {
			s := Select(Node{Name: "n", Zone: "z"}, p, nft.IPv4)
			if names(s.Cluster) != c.cluster || names(s.Local) != c.local {
				t.Errorf("%q: cluster %q, local %q, want %q and %q", c.endpoints, names(s.Cluster), names(s.Local), c.cluster, c.local)
			}
			if s.WhyCluster != c.whyCluster || s.WhyLocal != c.whyLocal {
				t.Errorf("%q: reasons %q and %q, want %q and %q", c.endpoints, s.WhyCluster, s.WhyLocal, c.whyCluster, c.whyLocal)
			}
			slices.Reverse(p.Endpoints)
		}
	}
}

// names returns the last bytes of the addresses of endpoints.
func names(endpoints []Endpoint) string {
	var all []string
	for _, e := range endpoints {
		all = append(all, fmt.Sprint(e.Addr().As4()[3]))
	}
	return strings.Join(all, " ")
}
