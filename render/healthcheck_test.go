package render

import (
	"strings"
	"testing"
)

// TestHealthCheckOf: who has a health check, and which endpoints count. Ports are separated by semicolons.
func TestHealthCheckOf(t *testing.T) {
	for _, c := range []struct {
		name      string
		node      string
		port      uint16
		local     bool
		endpoints string
		want      int // -1: there is none
	}{
		{"no port", "n", 0, true, "1 ready local", -1},
		{"policy Cluster", "n", 30000, false, "1 ready local", -1},
		{"no endpoint", "n", 30000, true, "", 0},
		{"not ready", "n", 30000, true, "1 local", 0},
		{"elsewhere", "n", 30000, true, "1 ready, 2 ready", 0},
		{"terminating", "n", 30000, true, "1 draining local, 2 dead local", 0},
		{"some of each", "n", 30000, true, "1 ready local, 2 draining local, 3 ready, 4 local, 5 ready local", 2},
		{"an address at two ports", "n", 30000, true, "1 ready local, 2 ready local; 2 ready local, 3 ready local", 3},
		{"ready at one port alone", "n", 30000, true, "1 local; 1 ready local", 1},
		{"both families", "n", 30000, true, "1 ready local, 1 ready local six", 2},
		{"hints do not count", "n", 30000, true, "1 ready local zone=y node=m", 1},
		{"the highest port", "n", 65535, true, "1 ready local", 1},
		{"a node without a name", "", 30000, true, "1 ready", 0},
	} {
		s := Service{ServiceName: ServiceName{"ns1", "svc1"}, HealthCheckNodePort: c.port, ExternalLocal: c.local}
		for i, list := range strings.Split(c.endpoints, ";") {
			s.Ports = append(s.Ports, Port{Port: uint16(i + 1)})
			for text := range strings.SplitSeq(list, ",") {
				if text != "" {
					s.Ports[i].Endpoints = append(s.Ports[i].Endpoints, hintedEndpoint(text))
				}
			}
		}
		var want HealthCheck
		if c.want >= 0 {
			want = HealthCheck{ServiceName{"ns1", "svc1"}, c.port, c.want}
		}
		if got, wanted := HealthCheckOf(Node{Name: c.node}, s); got != want || wanted != (c.want >= 0) {
			t.Errorf("%s: %+v, %v", c.name, got, wanted)
		}
	}
}
