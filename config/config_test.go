package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// configured is what comes of a command line and, unless it is empty, a file that --config names.
func configured(t *testing.T, file string, args ...string) (s Settings, warnings []string, err error) {
	t.Helper()
	run := &cli.Command{Name: "run", Flags: Flags(), Action: func(c *cli.Context) error {
		var warned []Warning
		s, warned, err = FromCLI(c, []byte(file))
		s.Effective = v1alpha1.KubeProxyConfiguration{} // it says the same again, and what nobody follows
		for _, w := range warned {
			warnings = append(warnings, strings.TrimSpace(w.File+" "+w.Setting+": "+w.What))
		}
		return nil
	}}
	args = append([]string{"nfproxy", "run"}, args...)
	if file != "" {
		args = append(args, "--config", "conf")
	}
	app := &cli.App{Commands: []*cli.Command{run}, ExitErrHandler: func(*cli.Context, error) {}}
	if err := app.Run(args); err != nil {
		t.Fatal(err)
	}
	return s, warnings, err
}

func compare(t *testing.T, got, want any) {
	t.Helper()
	prefix := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	addr := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(want, got, prefix, addr); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
}

// kubeadm is what kubeadm writes into the ConfigMap kube-proxy.
const kubeadm = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
`

// header begins every KubeProxyConfiguration.
const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// usual is what kube-proxy's defaults come to, for a node called node-a.
func usual() Settings {
	return Settings{
		Kubeconfig:  "/etc/kubeconfig",
		Node:        render.Node{Name: "node-a", AffinityClients: 65536},
		Healthz:     "0.0.0.0:10256",
		Metrics:     "127.0.0.1:10249",
		Conntrack:   Conntrack{MaxPerCore: 32768, Min: 131072, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour},
		OOMScoreAdj: new(int32(-999)),
		LogFormat:   "text",
	}
}

// prefixes reads CIDRs.
func prefixes(t *testing.T, list string) []netip.Prefix {
	t.Helper()
	all, err := parsePrefixes(list)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestConfigure(t *testing.T) {
	for _, tc := range []struct {
		name string
		file string
		args []string
		want func(*Settings)
		warn []string
	}{
		{name: "flags alone", args: []string{"--kubeconfig", "/etc/kubeconfig"}},
		{
			name: "kubeadm", file: kubeadm,
			want: func(s *Settings) {
				s.Kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"
				s.Node.ClusterCIDRs = prefixes(t, "10.244.0.0/16")
			},
		},
		{
			name: "k3s",
			args: []string{"--cluster-cidr=10.42.0.0/16", "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-close-wait=0s",
				"--conntrack-tcp-timeout-established=0s", "--healthz-bind-address=127.0.0.1",
				"--kubeconfig=/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig", "--proxy-mode=iptables"},
			want: func(s *Settings) {
				s.Kubeconfig = "/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig"
				s.Node.ClusterCIDRs = prefixes(t, "10.42.0.0/16")
				s.Conntrack = Conntrack{Min: 131072}
				s.Healthz = "127.0.0.1:10256"
			},
			warn: []string{"--proxy-mode: there is no mode iptables here: Services become nftables rules"},
		},
		{
			name: "without Kubernetes the machine is left alone",
			args: []string{"--manifests", "dir", "--conntrack-udp-timeout", "40s"},
			want: func(s *Settings) {
				s.Manifests, s.Kubeconfig = "dir", ""
				s.Conntrack, s.OOMScoreAdj = Conntrack{UDPTimeout: 40 * time.Second}, nil
			},
		},
		{
			name: "a file meant for Kubernetes, without it", file: kubeadm,
			args: []string{"--manifests", "dir"},
			want: func(s *Settings) {
				s.Manifests, s.Kubeconfig = "dir", ""
				s.Node.ClusterCIDRs = prefixes(t, "10.244.0.0/16")
				s.Conntrack, s.OOMScoreAdj = Conntrack{}, nil
			},
			warn: []string{"conf clientConnection.kubeconfig: ignored because of --manifests"},
		},
		{
			name: "empty addresses are no addresses",
			args: []string{"--kubeconfig", "/etc/kubeconfig", "--healthz-bind-address=", "--metrics-port=0"},
			want: func(s *Settings) { s.Healthz, s.Metrics = "", "" },
		},
		{
			name: "IPv6",
			file: header + "bindAddress: 2001:db8::5\nmetricsBindAddress: '::'\nclientConnection: {kubeconfig: /etc/kubeconfig}",
			want: func(s *Settings) {
				s.PrimaryIP, s.Healthz, s.Metrics = netip.MustParseAddr("2001:db8::5"), "[::]:10256", "[::]:10249"
			},
		},
		{
			name: "masqueradeAll of iptables",
			file: header + "iptables: {masqueradeAll: true}\nclientConnection: {kubeconfig: /etc/kubeconfig}",
			want: func(s *Settings) { s.Node.MasqueradeAll = true },
		},
		{
			name: "masqueradeAll of iptables, with mode nftables",
			file: header + "mode: nftables\niptables: {masqueradeAll: true}\nclientConnection: {kubeconfig: /etc/kubeconfig}",
			warn: []string{"conf iptables.masqueradeAll: has no meaning here"},
		},
		{
			name: "written defaults, JSON, tabs",
			file: "{\t\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\", \"kind\": \"KubeProxyConfiguration\",\n" +
				"\t\"configSyncPeriod\": \"15m\", \"ipvs\": {\"excludeCIDRs\": [], \"syncPeriod\": \"30s\"}, \"featureGates\": {},\n" +
				"\t\"nftables\": {\"masqueradeBit\": 14}, \"clientConnection\": {\"kubeconfig\": \"/etc/kubeconfig\", \"qps\": 5, \"burst\": 10}}",
		},
		{
			name: "an interface of another mode, a repeated field, an unknown one",
			file: header + "mode: ''\nmode: nftables\ndetectLocal: {bridgeInterface: cni0}\nconntrack: {udpIdleTimeout: 1s}\n" +
				"clientConnection: {kubeconfig: /etc/kubeconfig}",
			warn: []string{
				`conf: a field is there twice, the last one counts: yaml: unmarshal errors: line 4: key "mode" already set in map`,
				"conf conntrack.udpIdleTimeout: unknown field",
				"conf detectLocal.bridgeInterface: goes with detectLocalMode BridgeInterface alone",
			},
		},
		{
			name: "addresses refused, all and but for ranges",
			args: []string{"--kubeconfig=/etc/kubeconfig", "--external-ips=none", "--load-balancer-ips= 203.0.113.9/24, 2001:db8::/32"},
			want: func(s *Settings) {
				s.Node.ExternalIPs.Only = true
				s.Node.LoadBalancerIPs = render.Allowlist{Only: true, Within: prefixes(t, "203.0.113.0/24,2001:db8::/32")}
			},
		},
		{name: "no address refused", args: []string{"--kubeconfig=/etc/kubeconfig", "--external-ips=any", "--load-balancer-ips=any"}},
		{
			name: "flags beside a file",
			file: header + "hostnameOverride: other\nlogging: {verbosity: 1}\nclientConnection: {kubeconfig: /etc/kubeconfig}",
			args: []string{"--cluster-cidr", "10.0.0.0/8", "--kubeconfig", "x", "--healthz-port", "0", "--min-sync-period", "1s", "-v", "5",
				"--logging-format", "json", "--service-cidr", "10.96.0.0/12", "--session-affinity-size", "9", "--connection-counters", "endpoints", "--master", "https://192.0.2.1",
				"--external-ips", "none",
				"--proxy-mode", "ipvs", "--vmodule", "a=1"},
			want: func(s *Settings) {
				s.Verbosity, s.LogFormat, s.Node.AffinityClients, s.Master = 5, "json", 9, "https://192.0.2.1"
				s.Node.ServiceCIDRs, s.Node.Counters = prefixes(t, "10.96.0.0/12"), render.CountEndpoints
				s.Node.ExternalIPs.Only = true
			},
			warn: []string{"--kubeconfig: ignored because of --config", "--cluster-cidr: ignored because of --config",
				"--min-sync-period: ignored because of --config", "--proxy-mode: ignored because of --config",
				"--healthz-port: ignored because of --config", "--vmodule: has no meaning here"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, warnings, err := configured(t, tc.file, append([]string{"--hostname-override", "Node-A"}, tc.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			want := usual()
			if tc.file != "" {
				want.File = "conf"
			}
			if tc.want != nil {
				tc.want(&want)
			}
			compare(t, s, want)
			compare(t, warnings, tc.warn)
		})
	}
}

// everything has each field that is followed, with a value that is not the default.
const everything = header + `mode: nftables
hostnameOverride: Node-A
clientConnection: {kubeconfig: /etc/other}
bindAddress: 192.0.2.7
healthzBindAddress: 192.0.2.7:1
metricsBindAddress: 192.0.2.7:2
bindAddressHardFail: true
enableProfiling: true
clusterCIDR: 10.1.2.3/8, fd00:10::/32
detectLocalMode: BridgeInterface
detectLocal: {bridgeInterface: cni0}
nodePortAddresses: [192.0.2.0/24, 2001:db8::/32]
oomScoreAdj: 5
nftables: {masqueradeAll: true, minSyncPeriod: 1s}
conntrack: {maxPerCore: 1, min: 2, tcpEstablishedTimeout: 3s, tcpCloseWaitTimeout: 4s, tcpBeLiberal: true, udpTimeout: 5s, udpStreamTimeout: 6s}
logging: {format: json, verbosity: 7}
`

func TestConfigureEverything(t *testing.T) {
	s, warnings, err := configured(t, everything)
	if err != nil || warnings != nil {
		t.Fatal(warnings, err)
	}
	compare(t, s, Settings{
		Kubeconfig: "/etc/other",
		File:       "conf",
		Node: render.Node{Name: "node-a", ClusterCIDRs: prefixes(t, "10.0.0.0/8,fd00:10::/32"), PodInterface: "cni0",
			MasqueradeAll: true, AffinityClients: 65536},
		NodePorts:           prefixes(t, "192.0.2.0/24,2001:db8::/32"),
		PrimaryIP:           netip.MustParseAddr("192.0.2.7"),
		MinSyncPeriod:       time.Second,
		Healthz:             "192.0.2.7:1",
		Metrics:             "192.0.2.7:2",
		BindAddressHardFail: true,
		Profiling:           true,
		Conntrack: Conntrack{MaxPerCore: 1, Min: 2, TCPEstablished: 3 * time.Second, TCPCloseWait: 4 * time.Second,
			TCPBeLiberal: true, UDPTimeout: 5 * time.Second, UDPStreamTimeout: 6 * time.Second},
		OOMScoreAdj: new(int32(5)),
		Verbosity:   7,
		LogFormat:   "json",
	})
}

// TestConfigureRefuses: everything that is wrong is said at once, with the file and the field, or the flag.
func TestConfigureRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		file string
		args []string
		want []string
	}{
		{"no source", "", nil, []string{"run needs to be told where Services come from: by --manifests DIR, by --kubeconfig FILE, " +
			"or by the environment of a pod, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"}},
		{"two sources", "", []string{"--manifests", "a", "--kubeconfig", "b"},
			[]string{"--manifests with --kubeconfig or --master: Services come from one of them"}},
		{"no YAML", "a: [", nil, []string{"conf: yaml: line 1: did not find expected node content"}},
		{"a list", "[1]", nil, []string{"conf: it is not a KubeProxyConfiguration"}},
		{"two documents", header + "---\n" + header, nil, []string{"conf: there is more than one document in it"}},
		{"another kind", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration", nil, []string{
			`conf: apiVersion: "kubelet.config.k8s.io/v1beta1" is not kubeproxy.config.k8s.io/v1alpha1`,
			`conf: kind: "KubeletConfiguration" is not KubeProxyConfiguration`}},
		{"nothing at all", "# empty", nil, []string{`conf: apiVersion: "" is not kubeproxy.config.k8s.io/v1alpha1`,
			`conf: kind: "" is not KubeProxyConfiguration`}},
		{"types", header + "oomScoreAdj: high\nconfigSyncPeriod: soon\nconntrack: 7\nnodePortAddresses: primary\nipvs: {tcpTimeout: 3}", nil,
			[]string{`conf: configSyncPeriod: time: invalid duration "soon"`, "conf: conntrack: 7 is no object",
				"conf: ipvs.tcpTimeout: 3 is no string", "conf: nodePortAddresses: primary is no []string", "conf: oomScoreAdj: high is no int32"}},
		{"values", header + `clientConnection: {kubeconfig: x}
mode: userspace
clusterCIDR: 10.0.0.0/8,11.0.0.0/8
detectLocalMode: Guess
nodePortAddresses: [primary, 10.0.0.0/8]
bindAddress: here
nftables: {minSyncPeriod: -1s}
healthzBindAddress: 192.0.2.1:0
metricsBindAddress: localhost:1
conntrack: {maxPerCore: -1, min: -2, tcpEstablishedTimeout: -1s, tcpCloseWaitTimeout: 1ms, udpTimeout: -2s, udpStreamTimeout: -3s}
oomScoreAdj: 1001
logging: {format: xml}
`, nil, []string{
			`conf: clusterCIDR: "10.0.0.0/8,11.0.0.0/8" has more than one CIDR of a family`,
			`conf: detectLocalMode: "Guess" is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`,
			`conf: nodePortAddresses: "primary,10.0.0.0/8" has primary and something else: it stands alone`,
			`conf: bindAddress: "here" is no IP address`,
			`conf: mode: "userspace" is none of nftables, iptables and ipvs`,
			`conf: nftables.minSyncPeriod: -1s is less than 0`,
			`conf: healthzBindAddress: "192.0.2.1:0" is no IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			`conf: metricsBindAddress: "localhost:1" is no IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			`conf: conntrack.maxPerCore: -1 is less than 0`,
			`conf: conntrack.min: -2 is less than 0`,
			`conf: conntrack.tcpEstablishedTimeout: -1s is less than 0`,
			`conf: conntrack.tcpCloseWaitTimeout: 1ms is less than a second`,
			`conf: conntrack.udpTimeout: -2s is less than 0`,
			`conf: conntrack.udpStreamTimeout: -3s is less than 0`,
			`conf: oomScoreAdj: 1001 is not between -1000 and 1000`,
			`conf: logging.format: "xml" is neither text nor json`,
		}},
		{"flags", "", []string{"--kubeconfig=x", "--session-affinity-size=0", "--connection-counters=all", "--external-ips=", "--load-balancer-ips=none,10.0.0.0/8", "--oom-score-adj=4294967296", "--metrics-bind-address=:1",
			"--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses=banana", "--cleanup", "--init-only=false"}, []string{
			"--cleanup: nfproxy has a command of its own for it: nfproxy cleanup",
			"--session-affinity-size: 0 is not a number of clients",
			`--connection-counters: "all" is none of none, services, endpoints`,
			`--external-ips: "" is none of any, none, CIDR[,CIDR...]`,
			`--load-balancer-ips: "none" is no CIDR such as 10.0.0.0/16 or fd00::/64`,
			`--nodeport-addresses: "banana" is no CIDR such as 10.0.0.0/16 or fd00::/64`,
			`--metrics-bind-address: ":1" is no IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			"--oom-score-adj: 2147483647 is not between -1000 and 1000",
		}},
		{"a flag beside a file", header + "clientConnection: {kubeconfig: x}\noomScoreAdj: 1001", []string{"--logging-format=xml"}, []string{
			"conf: oomScoreAdj: 1001 is not between -1000 and 1000", `--logging-format: "xml" is neither text nor json`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := configured(t, tc.file, tc.args...)
			if err == nil {
				t.Fatal("it was accepted")
			}
			compare(t, strings.Split(err.Error(), "\n"), tc.want)
		})
	}
}
