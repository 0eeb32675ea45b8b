//go:build linux

package record

import (
	"fmt"
	"strings"
	"testing"
)

// TestAddBenchmarks: each metric of each benchmark is a measurement, and repeated runs are its samples.
func TestAddBenchmarks(t *testing.T) {
	const text = `goos: linux
BenchmarkFirstPacket/no-proxy/nat-hooks-2         	     150	      1049 ns/direct	       365.0 ns/more25%	       421.0 ns/more50%	      1487 ns/packet
BenchmarkFirstPacket/cluster-ip/services=10000-2  	     150	      1026 ns/direct	      1752 ns/more50%	      2794 ns/packet
BenchmarkFirstPacket/cluster-ip/services=10000-2  	     150	      1026 ns/direct	      1752 ns/more50%	      2800 ns/packet	      9000 ns/cold	      5000 ns/cold-more
BenchmarkDraws/services=1/endpoints=3/class=4-2   	     200	         1.327 draws/packet	      1648 ns/exact	        32.00 ns/more50%	      1677 ns/packet
BenchmarkLoad/services=1000-2   	     200	  14000000 ns/op	  5000 B/op	  12 allocs/op
BenchmarkNewBalancingChain/services=100000-2   	     1	  136391132 ns/size
BenchmarkOther/services=1000-2   	     200	  1677 ns/op
`
	var r Record
	if err := r.AddBenchmarks(text); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range r.Measurements {
		got = append(got, fmt.Sprintf("%s: %d, %v %s", m.Key(), m.Count, m.Max, m.Unit))
	}
	want := []string{
		"first packet, beyond a direct one|none|0|0|what=no-proxy/nat-hooks: 1, 4.21e-07 CPU s",
		"first packet|none|0|0|what=no-proxy/nat-hooks: 1, 1.487e-06 CPU s",
		"first packet, beyond a direct one|nfproxy|10000|0|what=cluster-ip: 2, 1.752e-06 CPU s",
		"first packet|nfproxy|10000|0|what=cluster-ip: 2, 2.8e-06 CPU s",
		"first packet, cold caches|nfproxy|10000|0|what=cluster-ip: 1, 9e-06 s",
		"first packet, cold caches, beyond a direct one|nfproxy|10000|0|what=cluster-ip: 1, 5e-06 s",
		"draws of a first packet|nfproxy|1|3|what=class=4: 1, 1.327 ",
		"draws of a first packet, beyond one draw|nfproxy|1|3|what=class=4: 1, 3.2e-08 CPU s",
		"load|nfproxy|1000|3|what=first load: 1, 0.014 s",
		"commit|nfproxy|100000|3|what=the first Service of a size: 1, 0.13639 s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if err := r.AddBenchmarks("PASS\n"); err == nil {
		t.Error("a text without results is accepted")
	}
}
