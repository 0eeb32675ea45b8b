package config

import (
	"math"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// Flags are the flags of run, each with its environment variable.
func Flags() []cli.Flag {
	var flags []cli.Flag
	for _, o := range options() {
		flags = append(flags, o.Flag)
	}
	return flags
}

// SourceFlags are those of Flags that say where Services come from and what is known of this machine: for commands that
// ask the source and run nothing.
func SourceFlags() []cli.Flag {
	names := []string{"manifests", "kubeconfig", "master", "config", "hostname-override", "cluster-cidr", "service-cidr",
		"nodeport-addresses", "bind-address", "detect-local-mode", "pod-bridge-interface", "pod-interface-name-prefix",
		"masquerade-all", "external-ips", "load-balancer-ips", "session-affinity-size", "connection-counters"}
	return slices.DeleteFunc(Flags(), func(f cli.Flag) bool { return !slices.Contains(names, f.Names()[0]) })
}

// option is a flag of run and what it sets. They have kube-proxy's names where they mean the same.
type option struct {
	cli.Flag
	// field is the path in a KubeProxyConfiguration that means the same, empty if there is none. With --config such a flag
	// is ignored, unless it overrides, which those do that override the file for kube-proxy.
	field     string
	overrides bool
	set       func(*configuration, *cli.Context)
}

// options are the flags of run; docs/configuration.md has them one by one.
func options() []option {
	own := []option{
		text("manifests", "", "`DIR` with Services, EndpointSlices and Nodes as YAML or JSON files: no Kubernetes is needed",
			func(c *configuration) *string { return &c.manifests }),
		text("kubeconfig", "clientConnection.kubeconfig", "`FILE` that leads to the API server (default: the one of the cluster "+
			"whose pod this is)", func(c *configuration) *string { return &c.ClientConnection.Kubeconfig }),
		text("config", "", "`FILE` with a KubeProxyConfiguration: flags that it has fields for are ignored, but for "+
			"--hostname-override and those of the log", func(c *configuration) *string { return &c.file }),
		override(text("hostname-override", "hostnameOverride", "`NAME` of this node (default: the host name)",
			func(c *configuration) *string { return &c.HostnameOverride })),
		text("cluster-cidr", "clusterCIDR", "`CIDR[,CIDR]` of the pods, one per family: connections from elsewhere are masqueraded",
			func(c *configuration) *string { return &c.ClusterCIDR }),
		text("service-cidr", "", "`CIDR[,CIDR...]` cluster IPs come from: what no Service has of them is dropped",
			func(c *configuration) *string { return &c.serviceCIDR }),
		texts("nodeport-addresses", "nodePortAddresses", "`CIDR[,CIDR...]` that hold the interface addresses node ports are served at "+
			"(default: primary, the Node's InternalIPs)", func(c *configuration) *[]string { return &c.NodePortAddresses }),
		text("detect-local-mode", "detectLocalMode", "how pods are told: ClusterCIDR by --cluster-cidr, NodeCIDR by the Node's podCIDRs, "+
			"BridgeInterface or\nInterfaceNamePrefix by the interface their packets come in by (default: ClusterCIDR)",
			func(c *configuration) *v1alpha1.LocalMode { return &c.DetectLocalMode }),
		text("pod-bridge-interface", bridgeField, "`NAME` of the bridge pods are on, for BridgeInterface",
			func(c *configuration) *string { return &c.DetectLocal.BridgeInterface }),
		text("pod-interface-name-prefix", prefixField, "`PREFIX` of the names of pods' interfaces, for InterfaceNamePrefix",
			func(c *configuration) *string { return &c.DetectLocal.InterfaceNamePrefix }),
		truth("masquerade-all", "nftables.masqueradeAll", "masquerade all connections to cluster IPs",
			func(c *configuration) *bool { return &c.NFTables.MasqueradeAll }),
		text("external-ips", "", "which externalIPs of Services are served: `WHICH` is any, none, or CIDR[,CIDR...] (default: any)",
			func(c *configuration) *string { return &c.externalIPs }),
		text("load-balancer-ips", "", "which load balancer addresses of Services are served: `WHICH` is any, none, or CIDR[,CIDR...] (default: any)",
			func(c *configuration) *string { return &c.loadBalancerIPs }),
		number("session-affinity-size", "", "`NUMBER` of clients per port and family that session affinity remembers (default: 65536)",
			func(c *configuration) *int { return &c.affinitySize }),
		text("connection-counters", "", "whose connections are counted: `WHOSE` is none, services or endpoints (default: services)",
			func(c *configuration) *string { return &c.counters }),
		period("min-sync-period", "nftables.minSyncPeriod", "least `TIME` between two transactions (default: 0s, each change at once)",
			func(c *configuration) *metav1.Duration { return &c.NFTables.MinSyncPeriod }),
	}
	return slices.Concat(own, serverOptions(), machineOptions(), logOptions(), peerOptions())
}

func serverOptions() []option {
	return []option{
		text("bind-address", "bindAddress", "`IP` that is the Node's of its family, whatever its object says; nothing listens there",
			func(c *configuration) *string { return &c.BindAddress }),
		text("healthz-bind-address", "healthzBindAddress", "`IP:PORT` of /healthz and /livez, empty for none (default: 0.0.0.0:10256)",
			func(c *configuration) *string { return &c.HealthzBindAddress }),
		text("metrics-bind-address", "metricsBindAddress", "`IP:PORT` of /metrics, empty for none (default: 127.0.0.1:10249)",
			func(c *configuration) *string { return &c.MetricsBindAddress }),
		truth("bind-address-hard-fail", "bindAddressHardFail", "end if one of these addresses cannot be had",
			func(c *configuration) *bool { return &c.BindAddressHardFail }),
		truth("profiling", "enableProfiling", "serve /debug/pprof beside /metrics",
			func(c *configuration) *bool { return &c.EnableProfiling }),
	}
}

// machineOptions set what nobody but the machine has. Their defaults hold with Kubernetes alone.
func machineOptions() []option {
	return []option{
		number("oom-score-adj", "oomScoreAdj", "`NUMBER` from -1000 to 1000, the lower the later it is killed when memory runs out "+
			"(default: -999; with --manifests as it is)", func(c *configuration) *int32 { return fresh(&c.OOMScoreAdj) }),
		number("conntrack-max-per-core", "conntrack.maxPerCore", "`NUMBER` of connections for each CPU, 0 leaves it as it is "+
			"(default: 32768; with --manifests 0)", func(c *configuration) *int32 { return fresh(&c.Conntrack.MaxPerCore) }),
		number("conntrack-min", "conntrack.min", "`NUMBER` of connections at least, if conntrack-max-per-core is not 0 "+
			"(default: 131072; with --manifests 0)", func(c *configuration) *int32 { return fresh(&c.Conntrack.Min) }),
		period("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "`TIME` that idle TCP connections are kept, "+
			"0 as it is (default: 24h; with --manifests 0)",
			func(c *configuration) *metav1.Duration { return fresh(&c.Conntrack.TCPEstablishedTimeout) }),
		period("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "`TIME` that half-closed TCP connections are kept, "+
			"0 as it is (default: 1h; with --manifests 0)",
			func(c *configuration) *metav1.Duration { return fresh(&c.Conntrack.TCPCloseWaitTimeout) }),
		truth("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "let TCP packets outside the window pass as part of their connection",
			func(c *configuration) *bool { return &c.Conntrack.TCPBeLiberal }),
		period("conntrack-udp-timeout", "conntrack.udpTimeout", "`TIME` that UDP flows without a reply are kept, 0 as it is",
			func(c *configuration) *metav1.Duration { return &c.Conntrack.UDPTimeout }),
		period("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "`TIME` that UDP flows with replies are kept, 0 as it is",
			func(c *configuration) *metav1.Duration { return &c.Conntrack.UDPStreamTimeout }),
	}
}

func logOptions() []option {
	return []option{
		override(number("v", "logging.verbosity", "`LEVEL` of the log: 0 tells what went wrong and what it does, 4 each change",
			func(c *configuration) *logsapi.VerbosityLevel { return &c.Logging.Verbosity })),
		override(text("logging-format", "logging.format", "`FORMAT` of the log: text or json (default: text)",
			func(c *configuration) *string { return &c.Logging.Format })),
	}
}

func envVar(flag string) string {
	return "NFPROXY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// text is a flag with a string, at the place that it sets.
func text[T ~string](name, field, usage string, at func(*configuration) *T) option {
	return option{
		Flag:  &cli.StringFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = T(c.String(name)) },
	}
}

// texts is a flag with strings, separated by commas or one at a time.
func texts(name, field, usage string, at func(*configuration) *[]string) option {
	return option{
		Flag:  listFlag{&cli.StringSliceFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = c.StringSlice(name) },
	}
}

// listFlag is one that the help shows like any other.
type listFlag struct{ *cli.StringSliceFlag }

func (listFlag) IsSliceFlag() bool { return false }

func truth(name, field, usage string, at func(*configuration) *bool) option {
	return option{
		Flag:  &cli.BoolFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = c.Bool(name) },
	}
}

func number[T ~int | ~int32 | ~uint32](name, field, usage string, at func(*configuration) *T) option {
	usage, usual := cutDefault(usage)
	return option{
		Flag:  &cli.IntFlag{Name: name, Usage: usage, DefaultText: usual, EnvVars: []string{envVar(name)}},
		field: field,
		set: func(conf *configuration, c *cli.Context) {
			*at(conf) = T(min(max(c.Int(name), math.MinInt32), math.MaxInt32)) // others are refused in any case
		},
	}
}

func period(name, field, usage string, at func(*configuration) *metav1.Duration) option {
	usage, usual := cutDefault(usage)
	return option{
		Flag:  &cli.DurationFlag{Name: name, Usage: usage, DefaultText: usual, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { at(conf).Duration = c.Duration(name) },
	}
}

// cutDefault takes the default off a usage: of a number the help would show 0 instead.
func cutDefault(usage string) (before, usual string) {
	before, usual, _ = strings.Cut(usage, " (default: ")
	return before, strings.TrimSuffix(usual, ")")
}

// fresh makes something new for a pointer and returns it.
func fresh[T any](at **T) *T {
	*at = new(T)
	return *at
}

// override makes a flag one that counts beside --config.
func override(o option) option {
	o.overrides = true
	return o
}
