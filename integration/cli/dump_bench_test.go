package cli

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"testing"
	"time"

	"nfproxy/cli"
	"nfproxy/integration/cluster"
	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// BenchmarkDump measures nfproxy dump as a process, with Services of three endpoints: the time and the peak memory.
func BenchmarkDump(b *testing.B) {
	b.Setenv("PATH", cluster.BuildAgent(b)+":"+os.Getenv("PATH"))
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			k, err := kernel.Open()
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			r := render.NewRuleset(render.Node{Name: "n"})
			r.Update(render.Update{Node: render.Node{Name: "n"}, Services: manyServices(n)})
			r.Observe(nil)
			if err := k.Apply(r.Plan(), 0); err != nil {
				b.Fatal(err)
			}
			defer cli.Cleanup(k, render.Instance{}, io.Discard)
			for _, format := range []string{"table", "json"} {
				b.Run(format, func(b *testing.B) {
					for b.Loop() {
						cmd := cluster.Command(b, "dump", "-o", format)
						if err := cmd.Start(); err != nil {
							b.Fatal(err)
						}
						b.ReportMetric(peak(cmd.Process.Pid), "MB-peak")
						if err := cmd.Wait(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}

// peak returns the peak memory of a process, read at most some milliseconds before its end. (ru_maxrss is at least the
// memory of the parent process: exec_mmap in fs/exec.c, Linux 6.18.)
func peak(pid int) float64 {
	most := 0.0
	for {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		now, running := cluster.StatusField(status, "VmHWM")
		if !running {
			return most
		}
		most = now
		time.Sleep(5 * time.Millisecond)
	}
}

func manyServices(n int) []render.Service {
	services := make([]render.Service, n)
	for i := range services {
		addr := func(base byte) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{base, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
		}
		p := render.Port{Name: "http", Protocol: nft.TCP, Port: 80}
		for e := range 3 {
			p.Endpoints = append(p.Endpoints, render.Endpoint{AddrPort: addr(byte(20 + e)), Ready: true})
		}
		services[i] = render.Service{ServiceName: render.ServiceName{Namespace: "default", Name: fmt.Sprintf("service-%d", i)},
			ClusterIPs: []netip.Addr{addr(10).Addr()}, Ports: []render.Port{p}}
	}
	return services
}
