package cluster

import (
	"fmt"
	"os"
	"testing"
)

// BenchmarkKubeProxy measures what BenchmarkCluster measures, for the real kube-proxy in nftables mode with kubeadm's
// configuration: the time from the start of the process to a connection through the last Service, the time from the change
// of an endpoint to a connection that reaches it, processor time (without that of the nft processes) and memory.
func BenchmarkKubeProxy(b *testing.B) {
	b.Setenv("PATH", BuildAgent(b)+":"+os.Getenv("PATH"))
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			l := newLoadedCluster(b, n)
			l.ApplyAll(ReadManifest(b, KubeadmManifest))
			start := func() *Process { return l.StartKubeProxy(KubeadmConfigFiles(b, NftablesMode)) }
			b.Run("start", func(b *testing.B) { l.benchmarkStart(b, start, "cleanup", "--kube-proxy") })
			b.Run("change", func(b *testing.B) { l.benchmarkChange(b, start) })
		})
	}
}
