package main

import (
	"fmt"
	"os"
	"syscall"
	"testing"
)

// BenchmarkKubeProxy is what BenchmarkCluster measures, of the real kube-proxy in nftables mode with kubeadm's
// configuration: from the start of the process to a connection through the last Service, from the change of an endpoint to
// a connection that reaches it, processor time (without that of the nft processes) and memory.
func BenchmarkKubeProxy(b *testing.B) {
	b.Setenv("PATH", buildAgent(b)+":"+os.Getenv("PATH"))
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l := newLoadedCluster(b, n)
			l.applyAll(readManifest(b, kubeadmManifest))
			b.Run("start", l.benchmarkKubeProxyStart)
			b.Run("change", l.benchmarkKubeProxyChange)
		})
	}
}

func (l *loadedCluster) benchmarkKubeProxyStart(b *testing.B) {
	for b.Loop() {
		proxy := l.kubeProxy(kubeadmFiles(b, nftablesMode))
		l.connected(b, l.last.addrs[0])
		b.StopTimer()
		b.ReportMetric(processorTime(b, proxy), "ms-cpu")
		b.ReportMetric(memory(b, proxy, "VmHWM"), "MB-peak")
		proxy.end(syscall.SIGTERM)
		if out, err := nfproxy(b, "cleanup", "--kube-proxy").CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		b.StartTimer()
	}
}

func (l *loadedCluster) benchmarkKubeProxyChange(b *testing.B) {
	proxy := l.kubeProxy(kubeadmFiles(b, nftablesMode))
	l.connected(b, l.last.addrs[0])
	i := 0
	for b.Loop() {
		i++
		l.last.serve(l.last.addrs[i%2])
		l.connected(b, l.last.addrs[i%2])
	}
	proxy.end(syscall.SIGTERM)
}
