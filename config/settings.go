package config

import (
	"net/netip"
	"time"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// Settings are everything that the daemon needs to know, checked, whatever said it: flags, the environment or a file.
type Settings struct {
	// Manifests is the directory Services come from. If it is empty they come from an API server: the one that
	// Kubeconfig, a file, leads to, at the address Master if that is not empty; with neither the one of the cluster that
	// this is a pod of.
	Manifests, Kubeconfig, Master string
	// File is the path of the KubeProxyConfiguration, empty if there is none.
	File string
	// Effective is all that has a place in a KubeProxyConfiguration, for /configz: whatever said it, and the defaults.
	Effective kubeproxy.KubeProxyConfiguration

	// Node is what is known of this machine from the start: all but zone and addresses.
	Node render.Node
	// NodePorts hold the interface addresses node ports are served at; none means the addresses of the Node object.
	NodePorts []netip.Prefix
	// PrimaryIP, if valid, is the Node's address of its family, whatever the Node object says.
	PrimaryIP netip.Addr
	// MinSyncPeriod is the least time between two transactions.
	MinSyncPeriod time.Duration

	// Healthz and Metrics are the addresses, with ports, that are listened on; empty means not at all.
	Healthz, Metrics string
	// BindAddressHardFail ends the program if one of them cannot be had.
	BindAddressHardFail bool
	// Profiling serves /debug/pprof beside the metrics.
	Profiling bool

	// Conntrack is what is asked of the kernel's connection tracking.
	Conntrack Conntrack
	// OOMScoreAdj, from -1000 to 1000, is the process' in the kernel; nil leaves it as it is.
	OOMScoreAdj *int32

	// Verbosity is klog's: 0 tells what went wrong and what it does, 4 each change.
	Verbosity int
	// LogFormat is text or json.
	LogFormat string
}

// Conntrack is what the kernel's connection tracking is told. Zero leaves a value as it is.
type Conntrack struct {
	// MaxPerCore is how many connections there may be for each CPU, Min how many at least if MaxPerCore is not 0.
	MaxPerCore, Min int
	// TCPEstablished and TCPCloseWait are how long idle and half-closed connections are kept, in whole seconds.
	TCPEstablished, TCPCloseWait time.Duration
	// TCPBeLiberal lets packets outside the window pass as part of their connection.
	TCPBeLiberal bool
	// UDPTimeout and UDPStreamTimeout are how long flows without and with replies are kept, in whole seconds.
	UDPTimeout, UDPStreamTimeout time.Duration
}
