package main

import (
	"net/netip"
	"reflect"
	"time"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// settings are everything that run needs to know, checked, whatever said it: flags, the environment or a file.
type settings struct {
	// manifests is the directory Services come from. If it is empty they come from an API server: the one that
	// kubeconfig, a file, leads to, at the address master if that is not empty; with neither the one of the cluster that
	// this is a pod of.
	manifests, kubeconfig, master string
	// configFile is the path of the KubeProxyConfiguration, empty if there is none.
	configFile string
	// effective is all that has a place in a KubeProxyConfiguration, for /configz: whatever said it, and the defaults.
	effective kubeproxy.KubeProxyConfiguration

	// node is what is known of this machine from the start: all but zone and addresses.
	node render.Node
	// nodePorts hold the interface addresses node ports are served at; none means the addresses of the Node object.
	nodePorts []netip.Prefix
	// primaryIP, if valid, is the Node's address of its family, whatever the Node object says.
	primaryIP netip.Addr
	// minSyncPeriod is the least time between two transactions.
	minSyncPeriod time.Duration

	// healthz and metrics are the addresses, with ports, that are listened on; empty means not at all.
	healthz, metrics string
	// bindAddressHardFail ends the program if one of them cannot be had.
	bindAddressHardFail bool
	// profiling serves /debug/pprof beside the metrics.
	profiling bool

	conntrack conntrackSettings
	// oomScoreAdj is nil to leave it as it is.
	oomScoreAdj *int32

	// verbosity is klog's: 0 tells what went wrong and what it does, 4 each change.
	verbosity int
	// logFormat is text or json.
	logFormat string
}

// conntrackSettings are what the kernel's connection tracking is told. Zero leaves a value as it is.
type conntrackSettings struct {
	maxPerCore, min              int
	tcpEstablished, tcpCloseWait time.Duration
	tcpBeLiberal                 bool
	udpTimeout, udpStreamTimeout time.Duration
}

// reload compares the settings in use with those that a file has now. It returns the settings to go on with, which have
// what can be changed while running, and the names of the changed ones that take a new start.
func reload(old, new settings) (live settings, restart []string) {
	live = old
	live.verbosity = new.verbosity
	for _, f := range []struct {
		name     string
		old, new any
	}{
		{"manifests", old.manifests, new.manifests},
		{"clientConnection.kubeconfig", old.kubeconfig, new.kubeconfig},
		{"master", old.master, new.master},
		{"configFile", old.configFile, new.configFile},
		{"hostnameOverride", old.node.Name, new.node.Name},
		{"clusterCIDR", old.node.ClusterCIDRs, new.node.ClusterCIDRs},
		{"detectLocalMode", old.node.NodeCIDR, new.node.NodeCIDR},
		{"detectLocal", old.node.PodInterface, new.node.PodInterface},
		{"masqueradeAll", old.node.MasqueradeAll, new.node.MasqueradeAll},
		{"serviceCIDR", old.node.ServiceCIDRs, new.node.ServiceCIDRs},
		{"nodePortAddresses", old.nodePorts, new.nodePorts},
		{"bindAddress", old.primaryIP, new.primaryIP},
		{"sessionAffinitySize", old.node.AffinityClients, new.node.AffinityClients},
		{"nftables.minSyncPeriod", old.minSyncPeriod, new.minSyncPeriod},
		{"healthzBindAddress", old.healthz, new.healthz},
		{"metricsBindAddress", old.metrics, new.metrics},
		{"bindAddressHardFail", old.bindAddressHardFail, new.bindAddressHardFail},
		{"enableProfiling", old.profiling, new.profiling},
		{"conntrack", old.conntrack, new.conntrack},
		{"oomScoreAdj", old.oomScoreAdj, new.oomScoreAdj},
		{"logging.format", old.logFormat, new.logFormat},
	} {
		if !reflect.DeepEqual(f.old, f.new) {
			restart = append(restart, f.name)
		}
	}
	return live, restart
}
