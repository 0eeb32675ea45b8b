package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"nfproxy/nft"
)

// localhostPrefix is the prefix of kube-proxy's metrics for node ports at loopback addresses, after kubeProxyPrefix (v1.37,
// pkg/proxy/metrics/metrics.go). Like kube-proxy, nfproxy has them only if it serves such node ports.
const localhostPrefix = "nftables_localhost_nodeport_"

// ServeLocalhost adds the metrics of node ports at loopback addresses. open returns the number of open listeners of each family.
func (r *Recorder) ServeLocalhost(open func() (ipv4, ipv6 int)) {
	if r == nil {
		return
	}
	r.registry.MustRegister(r.kubeProxy.localhostFailures)
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		r.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        kubeProxyPrefix + localhostPrefix + "listeners",
			Help:        "Open listeners for connections to node ports at loopback addresses.",
			ConstLabels: prometheus.Labels{"ip_family": ipFamily(f)},
		}, func() float64 {
			ipv4, ipv6 := open()
			if f == nft.IPv6 {
				return float64(ipv6)
			}
			return float64(ipv4)
		}))
	}
}

// LocalhostListenFailed counts a failed attempt to listen at a loopback address.
func (r *Recorder) LocalhostListenFailed(f nft.Family) {
	if r != nil {
		r.kubeProxy.localhostFailures.WithLabelValues(ipFamily(f)).Inc()
	}
}
