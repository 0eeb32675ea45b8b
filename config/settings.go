package config

import (
	"net/netip"
	"time"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// Settings are the checked settings of the daemon, whether they come from flags, the environment or a file. The defaults
// named here are those of FromCLI.
type Settings struct {
	// Manifests is the path of the directory of manifests that provides Services, empty (the default) for an API server.
	Manifests string
	// Kubeconfig is the path of the kubeconfig file for the API server, and Master the server's URL, which overrides the one
	// in the file. If both are empty, the default, the API server is that of the cluster in which nfproxy runs as a Pod.
	Kubeconfig, Master string
	// File is the path of the KubeProxyConfiguration, empty (the default) without one.
	File string
	// Effective contains the effective values of all settings that have a field in a KubeProxyConfiguration, including
	// defaults, for /configz.
	Effective kubeproxy.KubeProxyConfiguration
	// Flags contains the values of the flags by name, for /flagz: those of the command line or the environment, else the defaults. They
	// contain no secrets.
	Flags map[string]string

	// Node describes this machine without the facts that its Node object and the kernel add, such as zone and addresses. Its
	// name defaults to the host name.
	Node render.Node
	// NodePorts are the addresses at which node ports are served. The default is NodePorts.Primary.
	NodePorts NodePorts
	// PrimaryIP, if valid, replaces the Node object's address of the same family; if it is a loopback address, the machine has
	// no primary address of that family. It is not valid by default.
	PrimaryIP netip.Addr
	// MinSyncPeriod is the minimum time between two transactions. The default is 0: each change is programmed at once.
	MinSyncPeriod time.Duration
	// ResetGoneEndpoints is the time after which TCP connections to endpoints that are in no EndpointSlice lose their conntrack
	// entries, from a second to 15 minutes. The default is 0: never.
	ResetGoneEndpoints time.Duration

	// Healthz and Metrics are the listen addresses, with ports, of the health and the metrics server; empty means no server.
	// The defaults are 0.0.0.0:10256 and 127.0.0.1:10249, and no servers if Node.Instance has a name.
	Healthz, Metrics string
	// BindAddressHardFail makes the daemon exit if one of these addresses cannot be bound. The default is false: it retries.
	BindAddressHardFail bool
	// Profiling serves /debug/pprof at the metrics address. The default is false.
	Profiling bool
	// Statusz and Flagz serve /statusz and /flagz at the metrics address. The default is true.
	Statusz, Flagz bool

	// Conntrack are the settings of the kernel's connection tracking.
	Conntrack Conntrack
	// OOMScoreAdj, from -1000 to 1000, is the oom_score_adj of the process; nil leaves it unchanged. The default is -999, and
	// nil with Manifests.
	OOMScoreAdj *int32

	// Verbosity is the log level of klog: 0, the default, logs problems and actions, 4 also each change.
	Verbosity int
	// LogFormat is text, the default, or json.
	LogFormat string
}

// Conntrack are settings of the kernel's connection tracking. The zero value of a field leaves the kernel's setting
// unchanged; with Settings.Manifests it is the default of all fields.
type Conntrack struct {
	// MaxPerCore is the maximum number of conntrack entries per CPU, by default 32768. Min is a lower bound for the resulting
	// limit, by default 131072; it has no effect if MaxPerCore is 0.
	MaxPerCore, Min int
	// TCPEstablished and TCPCloseWait are the timeouts of idle and of half-closed TCP connections, at least one second. The
	// defaults are 24 hours and one hour.
	TCPEstablished, TCPCloseWait time.Duration
	// TCPBeLiberal accepts TCP packets outside the window as part of their connection. The default is false.
	TCPBeLiberal bool
	// UDPTimeout and UDPStreamTimeout are the timeouts of UDP flows without and with replies, at least one second. The default
	// is 0.
	UDPTimeout, UDPStreamTimeout time.Duration
}
