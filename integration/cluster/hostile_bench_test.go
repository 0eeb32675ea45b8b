package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// list returns n texts that are separated by commas.
func list(n int, format string, of func(i int) []any) string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf(format, of(i)...)
	}
	return strings.Join(all, ", ")
}

// numbered returns the last two bytes of address i.
func numbered(i int) []any { return []any{i >> 8, i & 255} }

// hostilePorts returns n ports of a Service.
func hostilePorts(n int) string {
	return list(n, "{name: p%d, port: %d}", func(i int) []any { return []any{i, i + 1} })
}

// hostileService returns the manifest of a Service.
func hostileService(spec, status string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {namespace: test, name: hostile}\nspec: {clusterIP: 10.96.2.1, " + spec + "}\nstatus: {" + status + "}\n"
}

// hostileSlices returns the manifests of n EndpointSlices of the Service with 1,000 endpoints and a number of ports each.
func hostileSlices(n, ports int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: test, name: hostile-%d, labels: {kubernetes.io/service-name: hostile}}
addressType: IPv4
ports: [%s]
endpoints: [%s]
`, i, hostilePorts(ports), list(1000, "{addresses: [10.%d.%d.%d]}", func(e int) []any { return append([]any{100 + i}, numbered(e)...) }))
	}
	return b.String()
}

// hostileObjects are objects that ask for as much as one object can hold.
var hostileObjects = []struct{ name, manifest string }{
	{"none", ""},
	{"ports=1000,externalIPs=2000", hostileService("ports: ["+hostilePorts(1000)+"], externalIPs: ["+list(2000, "11.0.%d.%d", numbered)+"]", "")},
	{"ports=1,externalIPs=40000", hostileService("ports: ["+hostilePorts(1)+"], externalIPs: ["+list(40_000, "11.0.%d.%d", numbered)+"]", "")},
	{"ports=1000,sourceRanges=20000", hostileService("type: LoadBalancer, ports: ["+hostilePorts(1000)+"], loadBalancerSourceRanges: ["+
		list(20_000, "11.%d.%d.0/24", numbered)+"]", "loadBalancer: {ingress: [{ip: 203.0.113.1}]}")},
	{"ports=1000,endpoints=5000", hostileService("ports: ["+hostilePorts(1000)+"]", "") + hostileSlices(5, 1000)},
	{"ports=20,endpoints=5000", hostileService("ports: ["+hostilePorts(20)+"]", "") + hostileSlices(5, 20)},
	{"invalid=40000", hostileService("ports: ["+hostilePorts(1)+"], externalIPs: ["+list(40_000, "999.0.%d.%d", numbered)+"]", "")},
}

// BenchmarkHostileObjects measures what one hostile object costs the process nfproxy and the kernel: the highest resident memory,
// the elements in the kernel, the time from the start until nfproxy is in sync, and the time that a change of another Service takes
// afterwards. The objects come from a manifest; each fits into an object of the API server.
func BenchmarkHostileObjects(b *testing.B) {
	dir := b.TempDir()
	if err := Build(dir); err != nil {
		b.Fatal(err)
	}
	for _, object := range hostileObjects {
		b.Run(object.name, func(b *testing.B) {
			for b.Loop() {
				measureHostile(b, filepath.Join(dir, "nfproxy"), object.manifest)
			}
		})
	}
}

func measureHostile(b *testing.B, program, manifest string) {
	manifests := b.TempDir()
	write := func(name, text string) {
		b.Helper()
		if err := os.WriteFile(filepath.Join(manifests, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	other := func(port int) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {namespace: test, name: other}\nspec: {clusterIP: 10.96.1.1, ports: [{port: %d}]}\n", port)
	}
	write("node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.10}]}\n")
	write("other.yaml", other(80))
	write("hostile.yaml", manifest)
	k, err := kernel.Open()
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	start := time.Now()
	cmd := exec.Command(program, "run", "--manifests", manifests, "--hostname-override", "node-a", "--healthz-bind-address=",
		"--metrics-bind-address=", "--conntrack-max-per-core", "0", "--oom-score-adj", "0")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	p := StartProcess(b, cmd)
	p.AwaitLog("in sync")
	synced := time.Since(start)

	services := render.SchemaOf(nft.IPv4).Services
	frontend := nft.Addr(netip.MustParseAddr("10.96.1.1")) + nft.Proto(nft.TCP) + nft.Port(81)
	start = time.Now()
	write("other.yaml", other(81))
	EventuallyTrue(b, "the other Service has its new port", func() (bool, string) {
		found, err := k.ReadElements(nft.Elements{Set: services, List: []nft.Element{{Key: frontend}}})
		return err == nil && len(found) == 1, p.Log.String()
	})
	changed := time.Since(start)
	tables, _, err := k.Read(render.Instance{}.TableIDs()...)
	if err != nil {
		b.Fatal(err)
	}
	elements := 0
	for _, t := range tables {
		for _, s := range t.Sets {
			elements += len(s.Elements)
		}
	}
	b.ReportMetric(memory(b, p, "VmHWM"), "MB-peak")
	b.ReportMetric(float64(elements), "elements")
	b.ReportMetric(synced.Seconds(), "s-start")
	b.ReportMetric(float64(changed.Milliseconds()), "ms-change")
	p.Stop()
	if err := k.Apply(nft.Diff(tables, nil), 0); err != nil {
		b.Fatal(err)
	}
}
