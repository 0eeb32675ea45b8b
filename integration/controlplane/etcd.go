//go:build linux

package controlplane

const (
	etcdClients = "http://127.0.0.1:2379"
	etcdPeers   = "http://127.0.0.1:2380"
)

// startEtcd starts the store: a cluster of one that need not survive a power
// cut. Nobody waits for it but the API server.
func (c *ControlPlane) startEtcd() {
	c.t.Helper()
	start(c.t, c.ns, c.dir, "etcd",
		"--name=etcd",
		"--data-dir="+c.path("etcd"),
		"--listen-client-urls="+etcdClients,
		"--advertise-client-urls="+etcdClients,
		"--listen-peer-urls="+etcdPeers,
		"--initial-advertise-peer-urls="+etcdPeers,
		"--initial-cluster=etcd="+etcdPeers,
		"--unsafe-no-fsync",
		"--heartbeat-interval=50", // with nobody to wait for, it is elected sooner
		"--election-timeout=500",
		"--log-level=warn",
	)
}
