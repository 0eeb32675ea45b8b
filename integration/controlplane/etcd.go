//go:build linux

package controlplane

const (
	// EtcdURL is the URL of etcd in the namespace of the control plane. It serves JSON below /v3 as well.
	EtcdURL   = "http://127.0.0.1:2379"
	etcdPeers = "http://127.0.0.1:2380"
)

// startEtcd starts an etcd cluster of one member, without durability. Only the
// API server waits until it is ready.
func (c *ControlPlane) startEtcd() {
	c.t.Helper()
	startProcess(c.t, c.ns, c.dir, "etcd",
		"--name=etcd",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls="+EtcdURL,
		"--advertise-client-urls="+EtcdURL,
		"--listen-peer-urls="+etcdPeers,
		"--initial-advertise-peer-urls="+etcdPeers,
		"--initial-cluster=etcd="+etcdPeers,
		"--unsafe-no-fsync",
		"--heartbeat-interval=50", // a single member needs no longer timeouts, and shorter ones elect it sooner
		"--election-timeout=500",
		"--log-level=warn",
	)
}
