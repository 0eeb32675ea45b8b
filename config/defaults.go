package config

import (
	"net"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	utilnet "k8s.io/utils/net"
)

// setDefaults replaces zero values by kube-proxy's defaults (pkg/proxy/apis/config/v1alpha1/defaults.go in Kubernetes 1.36).
// nftables.minSyncPeriod stays 0, because nfproxy has no reason to wait. Other functions set the defaults of the servers, of the process
// and of the machine.
func setDefaults(k *v1alpha1.KubeProxyConfiguration) {
	setIfZero(&k.BindAddress, "0.0.0.0")
	setIfZero(&k.IPTables.SyncPeriod.Duration, 30*time.Second)
	setIfZero(&k.IPTables.MinSyncPeriod.Duration, time.Second)
	setIfZero(&k.IPVS.SyncPeriod.Duration, 30*time.Second)
	setIfZero(&k.NFTables.SyncPeriod.Duration, 30*time.Second)
	setIfZero(&k.ConfigSyncPeriod.Duration, 15*time.Minute)
	setIfNil(&k.IPTables.LocalhostNodePorts, true)
	setIfNil(&k.IPTables.MasqueradeBit, 14)
	setIfNil(&k.NFTables.MasqueradeBit, 14)

	setIfZero(&k.ClientConnection.ContentType, "application/vnd.kubernetes.protobuf")
	setIfZero(&k.ClientConnection.QPS, 5)
	setIfZero(&k.ClientConnection.Burst, 10)
	logsapi.SetRecommendedLoggingConfiguration(&k.Logging)
}

// setServerDefaults sets kube-proxy's defaults of the addresses of the servers. It is called after setDefaults, but not with
// --service-proxy-name: at these addresses the other proxy of the node listens.
func setServerDefaults(k *v1alpha1.KubeProxyConfiguration) {
	healthz, metrics := "0.0.0.0", "127.0.0.1"
	if ip := utilnet.ParseIPSloppy(k.BindAddress); ip.To4() == nil {
		healthz, metrics = "::", "::1"
	}
	setIfZero(&k.HealthzBindAddress, withPort(healthz, healthzPort))
	setIfZero(&k.MetricsBindAddress, withPort(metrics, metricsPort))
}

// setProcessDefaults sets kube-proxy's default of the field that changes a setting of the process. It is not called with --manifests.
func setProcessDefaults(k *v1alpha1.KubeProxyConfiguration) { setIfNil(&k.OOMScoreAdj, -999) }

// setMachineDefaults sets kube-proxy's defaults of the fields that change settings of the machine. It is not called with
// --manifests, because these settings stay unchanged without Kubernetes, and not with --service-proxy-name, because they are the other
// proxy's.
func setMachineDefaults(k *v1alpha1.KubeProxyConfiguration) {
	setIfNil(&k.Conntrack.MaxPerCore, 32*1024)
	setIfNil(&k.Conntrack.Min, 128*1024)
	setIfNil(&k.Conntrack.TCPEstablishedTimeout, metav1.Duration{Duration: 24 * time.Hour})
	setIfNil(&k.Conntrack.TCPCloseWaitTimeout, metav1.Duration{Duration: time.Hour})
}

func setIfZero[T comparable](at *T, value T) {
	var zero T
	if *at == zero {
		*at = value
	}
}

func setIfNil[T any](at **T, value T) {
	if *at == nil {
		*at = &value
	}
}

// withPort adds a port to an IP address. It returns any other text unchanged; the check rejects it if it is invalid.
func withPort(address string, port int) string {
	if utilnet.ParseIPSloppy(address) == nil {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(port))
}
