package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// Flags returns the flags of run. Each has an environment variable: NFPROXY_ and the flag's name.
func Flags() []cli.Flag {
	var flags []cli.Flag
	for _, o := range options() {
		flags = append(flags, o.Flag)
	}
	return flags
}

// SourceFlags returns those of Flags that name the source of Services or describe this machine. They are for commands that
// read the source without running the daemon.
func SourceFlags() []cli.Flag {
	names := []string{serviceProxyName, "manifests", "kubeconfig", "master", "config", "hostname-override", "cluster-cidr", "service-cidr",
		"nodeport-addresses", "bind-address", "detect-local-mode", "pod-bridge-interface", "pod-interface-name-prefix",
		"masquerade-all", "external-ips", "load-balancer-ips", "feature-gates", "session-affinity-size", "maglev-table-size",
		"max-service-elements", "max-elements", "unserved-ports", "answer-ping", "connection-counters"}
	return slices.DeleteFunc(Flags(), func(f cli.Flag) bool { return !slices.Contains(names, f.Names()[0]) })
}

// option is a flag of run and the value that it sets. Flags have kube-proxy's names where they mean the same.
type option struct {
	cli.Flag
	// field is the path of the equivalent field of a KubeProxyConfiguration, empty if there is none. With --config a flag with
	// a field is ignored, unless overrides is true: such flags take precedence over the file, as in kube-proxy.
	field     string
	overrides bool
	set       func(*configuration, *cli.Context)
	// text returns the value for /flagz. It is nil for flags that set nothing.
	text func(*configuration) string
}

// options returns the flags of run. docs/configuration.md describes each.
func options() []option {
	return slices.Concat(serviceOptions(), serverOptions(), machineOptions(), logOptions(), kubeProxyOptions())
}

// serviceOptions returns the flags that name the source of Services and determine their rules.
func serviceOptions() []option {
	return []option{
		stringOption("manifests", "", "`DIR` with Services, EndpointSlices and Nodes as YAML or JSON files, instead of an API server",
			func(c *configuration) *string { return &c.manifests }),
		stringOption("kubeconfig", "clientConnection.kubeconfig", "`FILE` with the address and the credentials of the API server "+
			"(default: the cluster of this Pod)", func(c *configuration) *string { return &c.ClientConnection.Kubeconfig }),
		stringOption("config", "", "`FILE` with a KubeProxyConfiguration; flags for its fields are ignored, except "+
			"--hostname-override, -v and --logging-format", func(c *configuration) *string { return &c.file }),
		serviceProxyNameOption(),
		override(stringOption("hostname-override", "hostnameOverride", "`NAME` of this node (default: the host name)",
			func(c *configuration) *string { return &c.HostnameOverride })),
		stringOption("cluster-cidr", "clusterCIDR", "`CIDR[,CIDR]` of the Pods, one per family: connections from other sources are masqueraded",
			func(c *configuration) *string { return &c.ClusterCIDR }),
		stringOption("service-cidr", "", "`CIDR[,CIDR...]` of the cluster IPs: packets to unused addresses inside are dropped",
			func(c *configuration) *string { return &c.serviceCIDR }),
		listOption("nodeport-addresses", "nodePortAddresses", "`CIDR[,CIDR...]` of the interface addresses at which node ports are served; "+
			"primary, localhost and all are valid, too (default: primary, the Node's InternalIPs)", func(c *configuration) *[]string { return &c.NodePortAddresses }),
		stringOption("detect-local-mode", "detectLocalMode", "how Pods are recognized: ClusterCIDR by --cluster-cidr, NodeCIDR by the Node's podCIDRs, "+
			"BridgeInterface or\nInterfaceNamePrefix by the interface on which their packets arrive (default: ClusterCIDR)",
			func(c *configuration) *v1alpha1.LocalMode { return &c.DetectLocalMode }),
		stringOption("pod-bridge-interface", bridgeField, "`NAME` of the bridge of the Pods, for BridgeInterface",
			func(c *configuration) *string { return &c.DetectLocal.BridgeInterface }),
		stringOption("pod-interface-name-prefix", prefixField, "`PREFIX` of the names of the Pods' interfaces, for InterfaceNamePrefix",
			func(c *configuration) *string { return &c.DetectLocal.InterfaceNamePrefix }),
		boolOption("masquerade-all", "nftables.masqueradeAll", "masquerade all connections to cluster IPs",
			func(c *configuration) *bool { return &c.NFTables.MasqueradeAll }),
		stringOption("external-ips", "", "which externalIPs of Services are served: `WHICH` is any, none, or CIDR[,CIDR...] (default: any)",
			func(c *configuration) *string { return &c.externalIPs }),
		stringOption("load-balancer-ips", "", "which load balancer addresses of Services are served: `WHICH` is any, none, or CIDR[,CIDR...] (default: any)",
			func(c *configuration) *string { return &c.loadBalancerIPs }),
		intOption("session-affinity-size", "", "`NUMBER` of clients that session affinity remembers per Service port and family (default: 65536)",
			func(c *configuration) *int { return &c.affinitySize }),
		intOption("maglev-table-size", "", "`NUMBER` of slots of a frontend with lb-algorithm maglev: a prime, the same on every node (default: 1021)",
			func(c *configuration) *int { return &c.maglevSize }),
		intOption("max-service-elements", "", "`NUMBER` of elements that one Service may cost in the tables; beyond it, only a part of the Service is served (default: 100000)",
			func(c *configuration) *int { return &c.maxServiceElements }),
		intOption("max-elements", "", "`NUMBER` of elements that all Services together may cost in the tables; beyond it, the largest Services are not served (default: 2000000)",
			func(c *configuration) *int { return &c.maxElements }),
		stringOption("unserved-ports", "", "what happens to packets to other ports than those of Services at external IPs and load balancer addresses: "+
			"`WHAT` is refuse, drop or pass (default: pass)", func(c *configuration) *string { return &c.unservedPorts }),
		boolOption("answer-ping", "", "answer pings to the addresses of Services that have endpoints",
			func(c *configuration) *bool { return &c.answerPing }),
		stringOption("connection-counters", "", "which connections are counted: those of `WHICH`: none, services or endpoints (default: services)",
			func(c *configuration) *string { return &c.counters }),
		durationOption("reset-gone-endpoints", "", "a TCP connection to an endpoint that has been in no EndpointSlice for `TIME` is reset when it sends, "+
			"1s to 15m, 0 for never (default: 0s)", func(c *configuration) *metav1.Duration { return &c.resetGone }),
		durationOption("min-sync-period", "nftables.minSyncPeriod", "minimum `TIME` between two transactions (default: 0s, each change at once)",
			func(c *configuration) *metav1.Duration { return &c.NFTables.MinSyncPeriod }),
	}
}

// serverOptions returns the flags of the health and the metrics server.
func serverOptions() []option {
	return []option{
		stringOption("bind-address", "bindAddress", "`IP` that replaces the Node's address of the same family; no server listens there",
			func(c *configuration) *string { return &c.BindAddress }),
		stringOption("healthz-bind-address", "healthzBindAddress", "`IP:PORT` of /healthz and /livez, empty for no server (default: 0.0.0.0:10256)",
			func(c *configuration) *string { return &c.HealthzBindAddress }),
		stringOption("metrics-bind-address", "metricsBindAddress", "`IP:PORT` of /metrics, empty for no server (default: 127.0.0.1:10249)",
			func(c *configuration) *string { return &c.MetricsBindAddress }),
		boolOption("bind-address-hard-fail", "bindAddressHardFail", "exit if one of these addresses cannot be bound",
			func(c *configuration) *bool { return &c.BindAddressHardFail }),
		boolOption("profiling", "enableProfiling", "serve /debug/pprof beside /metrics",
			func(c *configuration) *bool { return &c.EnableProfiling }),
	}
}

// machineOptions returns the flags that change settings of the machine. Their defaults do not apply with --manifests.
func machineOptions() []option {
	return []option{
		intOption("oom-score-adj", "oomScoreAdj", "`NUMBER` from -1000 to 1000: the lower, the later this process is killed when memory runs out "+
			"(default: -999; with --manifests unchanged)", func(c *configuration) *int32 { return allocate(&c.OOMScoreAdj) }),
		intOption("conntrack-max-per-core", "conntrack.maxPerCore", "maximum `NUMBER` of conntrack entries per CPU, 0 for unchanged "+
			"(default: 32768; with --manifests 0)", func(c *configuration) *int32 { return allocate(&c.Conntrack.MaxPerCore) }),
		intOption("conntrack-min", "conntrack.min", "minimum `NUMBER` for the limit of conntrack entries, unless conntrack-max-per-core is 0 "+
			"(default: 131072; with --manifests 0)", func(c *configuration) *int32 { return allocate(&c.Conntrack.Min) }),
		durationOption("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "`TIME` after which idle TCP connections "+
			"are forgotten, 0 for unchanged (default: 24h; with --manifests 0)",
			func(c *configuration) *metav1.Duration { return allocate(&c.Conntrack.TCPEstablishedTimeout) }),
		durationOption("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "`TIME` after which half-closed TCP connections "+
			"are forgotten, 0 for unchanged (default: 1h; with --manifests 0)",
			func(c *configuration) *metav1.Duration { return allocate(&c.Conntrack.TCPCloseWaitTimeout) }),
		boolOption("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", "accept TCP packets outside the window as part of their connection",
			func(c *configuration) *bool { return &c.Conntrack.TCPBeLiberal }),
		durationOption("conntrack-udp-timeout", "conntrack.udpTimeout", "`TIME` after which UDP flows without a reply are forgotten, 0 for unchanged",
			func(c *configuration) *metav1.Duration { return &c.Conntrack.UDPTimeout }),
		durationOption("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "`TIME` after which UDP flows with replies are forgotten, 0 for unchanged",
			func(c *configuration) *metav1.Duration { return &c.Conntrack.UDPStreamTimeout }),
	}
}

func logOptions() []option {
	return []option{
		override(intOption("v", "logging.verbosity", "`LEVEL` of the log: 0 logs problems and actions, 4 also each change",
			func(c *configuration) *logsapi.VerbosityLevel { return &c.Logging.Verbosity })),
		override(stringOption("logging-format", "logging.format", "`FORMAT` of the log: text or json (default: text)",
			func(c *configuration) *string { return &c.Logging.Format })),
	}
}

// serviceProxyName is the name of the flag that selects an instance of nfproxy.
const serviceProxyName = "service-proxy-name"

func serviceProxyNameOption() option {
	return stringOption(serviceProxyName, "", "serve only the Services whose label service.kubernetes.io/service-proxy-name is `NAME`, "+
		"in tables nfproxy/NAME (default: those without the label)", func(c *configuration) *string { return &c.serviceProxyName })
}

// InstanceFlag returns the flag by which commands that have no other flag of Flags select an instance of nfproxy.
func InstanceFlag() cli.Flag {
	return &cli.StringFlag{Name: serviceProxyName, EnvVars: []string{envVar(serviceProxyName)},
		Usage: "`NAME` of the nfproxy whose tables are meant, if it runs with this flag"}
}

// InstanceOf returns the instance that the flag of a command selects.
func InstanceOf(c *cli.Context) (render.Instance, error) {
	i, err := render.NewInstance(c.String(serviceProxyName))
	if err != nil {
		return i, fmt.Errorf("--%s: %w", serviceProxyName, err)
	}
	return i, nil
}

func envVar(flag string) string {
	return "NFPROXY_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// stringOption returns an option whose flag sets the string at the place that at returns.
func stringOption[T ~string](name, field, usage string, at func(*configuration) *T) option {
	return option{
		Flag:  &cli.StringFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = T(c.String(name)) },
		text:  func(conf *configuration) string { return string(*at(conf)) },
	}
}

// listOption is like stringOption for a list: of values separated by commas, or of repeated flags.
func listOption(name, field, usage string, at func(*configuration) *[]string) option {
	return option{
		Flag:  listFlag{&cli.StringSliceFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = c.StringSlice(name) },
		text:  func(conf *configuration) string { return "[" + strings.Join(*at(conf), ",") + "]" }, // as in kube-proxy
	}
}

// listFlag is a flag for a list that the help shows like any other flag.
type listFlag struct{ *cli.StringSliceFlag }

func (listFlag) IsSliceFlag() bool { return false }

// boolOption is like stringOption for a boolean.
func boolOption(name, field, usage string, at func(*configuration) *bool) option {
	return option{
		Flag:  &cli.BoolFlag{Name: name, Usage: usage, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { *at(conf) = c.Bool(name) },
		text:  func(conf *configuration) string { return strconv.FormatBool(*at(conf)) },
	}
}

// intOption is like stringOption for an integer.
func intOption[T ~int | ~int32 | ~uint32](name, field, usage string, at func(*configuration) *T) option {
	usage, defaultText := cutDefault(usage)
	return option{
		Flag:  &cli.IntFlag{Name: name, Usage: usage, DefaultText: defaultText, EnvVars: []string{envVar(name)}},
		field: field,
		set: func(conf *configuration, c *cli.Context) {
			*at(conf) = T(min(max(c.Int(name), math.MinInt32), math.MaxInt32)) // the check rejects values beyond int32 and these bounds
		},
		text: func(conf *configuration) string { return fmt.Sprint(*at(conf)) },
	}
}

// durationOption is like stringOption for a duration.
func durationOption(name, field, usage string, at func(*configuration) *metav1.Duration) option {
	usage, defaultText := cutDefault(usage)
	return option{
		Flag:  &cli.DurationFlag{Name: name, Usage: usage, DefaultText: defaultText, EnvVars: []string{envVar(name)}},
		field: field,
		set:   func(conf *configuration, c *cli.Context) { at(conf).Duration = c.Duration(name) },
		text:  func(conf *configuration) string { return at(conf).Duration.String() },
	}
}

// cutDefault splits a usage text before its default. Without a default text, the help of a number would show 0.
func cutDefault(usage string) (before, defaultText string) {
	before, defaultText, _ = strings.Cut(usage, " (default: ")
	return before, strings.TrimSuffix(defaultText, ")")
}

// allocate returns a pointer, which it sets to a new zero value if it is nil.
func allocate[T any](at **T) *T {
	if *at == nil {
		*at = new(T)
	}
	return *at
}

// override makes a flag take precedence over the file.
func override(o option) option {
	o.overrides = true
	return o
}
