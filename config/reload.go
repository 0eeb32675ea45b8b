package config

import "reflect"

// Reload compares the settings in use with those of a changed file. live are the settings in use with the changes that can
// be applied to a running daemon: the verbosity. restart are the names of the changed settings that require a restart.
func Reload(old, new Settings) (live Settings, restart []string) {
	live = old
	live.Verbosity = new.Verbosity
	samePorts := reflect.DeepEqual(old.NodePorts, new.NodePorts)
	for _, f := range []struct {
		name     string
		old, new any
	}{
		{"manifests", old.Manifests, new.Manifests},
		{"clientConnection.kubeconfig", old.Kubeconfig, new.Kubeconfig},
		{"master", old.Master, new.Master},
		{"configFile", old.File, new.File},
		{"serviceProxyName", old.Node.Instance.Name(), new.Node.Instance.Name()},
		{"hostnameOverride", old.Node.Name, new.Node.Name},
		{"clusterCIDR", old.Node.ClusterCIDRs, new.Node.ClusterCIDRs},
		{"detectLocalMode", old.Node.NodeCIDR, new.Node.NodeCIDR},
		{"detectLocal", old.Node.PodInterface, new.Node.PodInterface},
		{"masqueradeAll", old.Node.MasqueradeAll, new.Node.MasqueradeAll},
		{"serviceCIDR", old.Node.ServiceCIDRs, new.Node.ServiceCIDRs},
		{"nodePortAddresses", old.NodePorts, new.NodePorts},
		{"featureGates", gated(old, samePorts), gated(new, samePorts)},
		{"bindAddress", old.PrimaryIP, new.PrimaryIP},
		{"unservedPorts", old.Node.UnservedPorts, new.Node.UnservedPorts},
		{"answerPing", old.Node.AnswerPing, new.Node.AnswerPing},
		{"connectionCounters", old.Node.Counters, new.Node.Counters},
		{"externalIPs", old.Node.ExternalIPs, new.Node.ExternalIPs},
		{"loadBalancerIPs", old.Node.LoadBalancerIPs, new.Node.LoadBalancerIPs},
		{"sessionAffinitySize", old.Node.AffinityClients, new.Node.AffinityClients},
		{"maglevTableSize", old.Node.MaglevSize, new.Node.MaglevSize},
		{"maxServiceElements", old.Node.MaxServiceElements, new.Node.MaxServiceElements},
		{"maxElements", old.Node.MaxElements, new.Node.MaxElements},
		{"resetGoneEndpoints", old.ResetGoneEndpoints, new.ResetGoneEndpoints},
		{"nftables.minSyncPeriod", old.MinSyncPeriod, new.MinSyncPeriod},
		{"healthzBindAddress", old.Healthz, new.Healthz},
		{"metricsBindAddress", old.Metrics, new.Metrics},
		{"bindAddressHardFail", old.BindAddressHardFail, new.BindAddressHardFail},
		{"enableProfiling", old.Profiling, new.Profiling},
		{"conntrack", old.Conntrack, new.Conntrack},
		{"oomScoreAdj", old.OOMScoreAdj, new.OOMScoreAdj},
		{"logging.format", old.LogFormat, new.LogFormat},
	} {
		if !reflect.DeepEqual(f.old, f.new) {
			restart = append(restart, f.name)
		}
	}
	return live, restart
}

// gated returns what the feature gates of settings decide. With other node ports, Reload names these in the place of the gate of node
// ports at loopback addresses.
func gated(s Settings, samePorts bool) []bool {
	return []bool{samePorts && len(s.Node.Loopback) > 0, s.Statusz, s.Flagz}
}
