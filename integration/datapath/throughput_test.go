package datapath

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
	"nfproxy/sandbox"
)

// streamPort is the port of iperf3, TCP and UDP.
const streamPort = 5201

// stream measures established connections with iperf3, by TCP and by UDP datagrams of 64 bytes: rounds through all nodes in turn, as for
// short connections.
func (c *comparison) stream(services int, nodes []*node) {
	c.t.Helper()
	var g group
	for _, g = range groups(true) {
		if g.name == stream {
			break
		}
	}
	for round := range *rounds {
		for i := range nodes {
			n := nodes[(round+i)%len(nodes)]
			tcp, err := c.iperf(n, g)
			check(c.t, err)
			udp, err := c.iperf(n, g, "-u", "-b", "0", "-l", "64")
			check(c.t, err)
			n.forget()
			bits, packets := tcp.End.Received.Bits, float64(udp.End.Sum.Packets-udp.End.Sum.Lost)/udp.End.Sum.Seconds
			if bits <= 0 || packets <= 0 {
				c.t.Fatalf("%s: iperf3 measured %f bits and %f packets per second", n.proxy, bits, packets)
			}
			like := record.Measurement{Proxy: n.proxy, Services: services, Endpoints: g.endpoints}
			like.Experiment, like.Unit, like.Parameters = streamExperiment, record.BitsPerSec, map[string]string{"protocol": "TCP"}
			c.record.At(like).Add(bits)
			like.Experiment, like.Unit, like.Parameters = packetExperiment, record.PerSecond, map[string]string{"protocol": "UDP", "bytes": "64"}
			c.record.At(like).Add(packets)
		}
	}
}

// streamAddress returns where the stream goes: to the endpoint, or through the proxy.
func (c *comparison) streamAddress(n *node, g group) netip.AddrPort {
	if n.proxy == record.None {
		return netip.AddrPortFrom(g.addresses(0)[0], streamPort)
	}
	return c.population.frontends(g)[0]
}

// iperfResult is a part of iperf3's JSON.
type iperfResult struct {
	Error string `json:"error"`
	End   struct {
		Received struct {
			Bits float64 `json:"bits_per_second"`
		} `json:"sum_received"`
		Sum struct { // of UDP: what was sent and what of it was lost
			Packets int     `json:"packets"`
			Lost    int     `json:"lost_packets"`
			Seconds float64 `json:"seconds"`
		} `json:"sum"`
	} `json:"end"`
}

// iperf runs a server of iperf3 for one test, and a client in the Pod.
func (c *comparison) iperf(n *node, g group, more ...string) (iperfResult, error) {
	server := start(c.t, n.server.Namespace, exec.Command("taskset", "-c", serverCPU, "iperf3", "-s", "-1", "--forceflush", "-p", strconv.Itoa(streamPort)))
	defer server.kill()
	cluster.EventuallyTrue(c.t, "iperf3 listens", func() (bool, string) {
		return strings.Contains(server.log.String(), "Server listening"), server.log.String()
	})
	to := c.streamAddress(n, g)
	args := append([]string{"-c", clientCPU, "iperf3", "--json", "-c", to.Addr().String(), "-p", strconv.Itoa(int(to.Port())),
		"-t", strconv.Itoa(max(1, int(streaming.Seconds())))}, more...)
	var r iperfResult
	text, err := output(n.places[fromPod], "taskset", args...)
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	if err != nil || r.Error != "" {
		return r, fmt.Errorf("%s: %s: %v, %s", n.proxy, strings.Join(args, " "), err, r.Error)
	}
	return r, nil
}

// output returns the standard output of a program in a namespace.
func output(ns *sandbox.Namespace, name string, args ...string) (text string, err error) {
	err = ns.Do(func() error {
		out, err := exec.Command(name, args...).Output()
		text = string(out)
		return err
	})
	return text, err
}
