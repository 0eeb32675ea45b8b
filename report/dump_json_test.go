package report

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"nfproxy/render"
)

// TestWriteJSON: the text is the same as that of json.MarshalIndent.
func TestWriteJSON(t *testing.T) {
	all := Description{Tables: []Table{{Family: "ip", Schema: 1}}}
	for i := range 600 {
		frontend := Frontend{Address: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80,
			Kind: render.ClusterIP, Action: "balance", Endpoints: []Endpoint{{Address: netip.MustParseAddr("10.244.1.2"), Port: 80}}}
		all.Services = append(all.Services, ServicePort{Namespace: "default", Name: fmt.Sprint("service-", i), Port: "http",
			Protocol: "TCP", Frontends: []Frontend{frontend}})
	}
	for _, n := range []int{0, 1, 2, 256, 257, 600} {
		d := Description{Tables: all.Tables, Services: all.Services[:n]}
		want, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if err := WriteJSON(&got, d); err != nil || got.String() != string(want)+"\n" {
			t.Errorf("%v, and\n%s\nwant\n%s", err, got.String(), want)
		}
	}
}
