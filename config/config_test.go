package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// configured returns the result of FromCLI for a command line and, unless file is empty, a file that --config names.
func configured(t *testing.T, file string, args ...string) (s Settings, warnings []string, err error) {
	t.Helper()
	run := &cli.Command{Name: "run", Flags: Flags(), Action: func(c *cli.Context) error {
		var warned []Warning
		s, warned, err = FromCLI(c, []byte(file))
		s.Effective, s.Flags = v1alpha1.KubeProxyConfiguration{}, nil // contain the same values, and fields and flags without effect
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
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// kubeadm is the content of the ConfigMap kube-proxy as kubeadm writes it.
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

// defaultSettings returns the settings that follow from kube-proxy's defaults, for a node named node-a.
func defaultSettings() Settings {
	return Settings{
		Kubeconfig:  "/etc/kubeconfig",
		Node:        render.Node{Name: "node-a", AffinityClients: 65536, MaglevSize: 1021, MaxServiceElements: 100_000, MaxElements: 2_000_000},
		NodePorts:   NodePorts{Primary: true},
		Healthz:     "0.0.0.0:10256",
		Metrics:     "127.0.0.1:10249",
		Statusz:     true,
		Flagz:       true,
		Conntrack:   Conntrack{MaxPerCore: 32768, Min: 131072, TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour},
		OOMScoreAdj: new(int32(-999)),
		LogFormat:   "text",
	}
}

// prefixes parses CIDRs.
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
			warn: []string{"--proxy-mode: mode iptables is not available: Services become nftables rules"},
		},
		{
			name: "without Kubernetes the machine's settings stay unchanged",
			args: []string{"--manifests", "dir", "--conntrack-udp-timeout", "40s"},
			want: func(s *Settings) {
				s.Manifests, s.Kubeconfig = "dir", ""
				s.Conntrack, s.OOMScoreAdj = Conntrack{UDPTimeout: 40 * time.Second}, nil
			},
		},
		{
			name: "kubeadm's file without Kubernetes", file: kubeadm,
			args: []string{"--manifests", "dir"},
			want: func(s *Settings) {
				s.Manifests, s.Kubeconfig = "dir", ""
				s.Node.ClusterCIDRs = prefixes(t, "10.244.0.0/16")
				s.Conntrack, s.OOMScoreAdj = Conntrack{}, nil
			},
			warn: []string{"conf clientConnection.kubeconfig: ignored because of --manifests"},
		},
		{
			name: "empty addresses disable the servers",
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
			warn: []string{"conf iptables.masqueradeAll: has no effect"},
		},
		{
			name: "explicit defaults, JSON, tabs",
			file: "{\t\"apiVersion\": \"kubeproxy.config.k8s.io/v1alpha1\", \"kind\": \"KubeProxyConfiguration\",\n" +
				"\t\"configSyncPeriod\": \"15m\", \"ipvs\": {\"excludeCIDRs\": [], \"syncPeriod\": \"30s\"}, \"featureGates\": {},\n" +
				"\t\"nftables\": {\"masqueradeBit\": 14}, \"clientConnection\": {\"kubeconfig\": \"/etc/kubeconfig\", \"qps\": 5, \"burst\": 10}}",
		},
		{
			name: "an interface of another mode, a repeated field, an unknown one",
			file: header + "mode: ''\nmode: nftables\ndetectLocal: {bridgeInterface: cni0}\nconntrack: {udpIdleTimeout: 1s}\n" +
				"clientConnection: {kubeconfig: /etc/kubeconfig}",
			warn: []string{
				`conf: repeated field, the last value is used: yaml: unmarshal errors: line 4: key "mode" already set in map`,
				"conf conntrack.udpIdleTimeout: unknown field",
				"conf detectLocal.bridgeInterface: has an effect only with detectLocalMode BridgeInterface",
			},
		},
		{
			name: "disallowed addresses: all, and all outside ranges",
			args: []string{"--kubeconfig=/etc/kubeconfig", "--external-ips=none", "--load-balancer-ips= 203.0.113.9/24, 2001:db8::/32"},
			want: func(s *Settings) {
				s.Node.ExternalIPs.Only = true
				s.Node.LoadBalancerIPs = render.Allowlist{Only: true, Within: prefixes(t, "203.0.113.0/24,2001:db8::/32")}
			},
		},
		{
			name: "unserved ports refused",
			args: []string{"--kubeconfig=/etc/kubeconfig", "--unserved-ports=refuse", "--answer-ping=false"},
			want: func(s *Settings) { s.Node.UnservedPorts = render.RefuseUnserved },
		},
		{name: "unserved ports pass", args: []string{"--kubeconfig=/etc/kubeconfig", "--unserved-ports=pass"}},
		{name: "all addresses allowed", args: []string{"--kubeconfig=/etc/kubeconfig", "--external-ips=any", "--load-balancer-ips=any"}},
		{
			name: "flags beside a file",
			file: header + "hostnameOverride: other\nlogging: {verbosity: 1}\nclientConnection: {kubeconfig: /etc/kubeconfig}",
			args: []string{"--cluster-cidr", "10.0.0.0/8", "--kubeconfig", "x", "--healthz-port", "0", "--min-sync-period", "1s", "-v", "5",
				"--logging-format", "json", "--service-cidr", "10.96.0.0/12", "--session-affinity-size", "9", "--maglev-table-size", "251", "--max-service-elements", "8", "--max-elements", "7", "--connection-counters", "endpoints", "--master", "https://192.0.2.1",
				"--external-ips", "none", "--unserved-ports", "drop", "--answer-ping", "--reset-gone-endpoints", "30s",
				"--proxy-mode", "ipvs", "--vmodule", "a=1"},
			want: func(s *Settings) {
				s.Verbosity, s.LogFormat, s.Node.AffinityClients, s.Node.MaglevSize, s.Node.MaxServiceElements, s.Node.MaxElements, s.Master = 5, "json", 9, 251, 8, 7, "https://192.0.2.1"
				s.Node.ServiceCIDRs, s.Node.Counters = prefixes(t, "10.96.0.0/12"), render.CountEndpoints
				s.Node.ExternalIPs.Only = true
				s.Node.UnservedPorts, s.Node.AnswerPing = render.DropUnserved, true
				s.ResetGoneEndpoints = 30 * time.Second
			},
			warn: []string{"--kubeconfig: ignored because of --config", "--cluster-cidr: ignored because of --config",
				"--min-sync-period: ignored because of --config", "--proxy-mode: ignored because of --config",
				"--healthz-port: ignored because of --config", "--vmodule: has no effect"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, warnings, err := configured(t, tc.file, append([]string{"--hostname-override", "Node-A"}, tc.args...)...)
			if err != nil {
				t.Fatal(err)
			}
			want := defaultSettings()
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

// everything contains each field that is read, with a value that is not the default.
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
			MasqueradeAll: true, AffinityClients: 65536, MaglevSize: 1021, MaxServiceElements: 100_000, MaxElements: 2_000_000},
		NodePorts:           NodePorts{CIDRs: prefixes(t, "192.0.2.0/24,2001:db8::/32")},
		PrimaryIP:           netip.MustParseAddr("192.0.2.7"),
		MinSyncPeriod:       time.Second,
		Healthz:             "192.0.2.7:1",
		Metrics:             "192.0.2.7:2",
		BindAddressHardFail: true,
		Profiling:           true,
		Statusz:             true,
		Flagz:               true,
		Conntrack: Conntrack{MaxPerCore: 1, Min: 2, TCPEstablished: 3 * time.Second, TCPCloseWait: 4 * time.Second,
			TCPBeLiberal: true, UDPTimeout: 5 * time.Second, UDPStreamTimeout: 6 * time.Second},
		OOMScoreAdj: new(int32(5)),
		Verbosity:   7,
		LogFormat:   "json",
	})
}

// TestConfigureErrors: all invalid values are reported at once, with the file and the field or with the flag.
func TestConfigureErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		file string
		args []string
		want []string
	}{
		{"no source", "", nil, []string{"no source of Services: set --manifests DIR or --kubeconfig FILE, or run in a Pod, " +
			"where KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are set"}},
		{"two sources", "", []string{"--manifests", "a", "--kubeconfig", "b"},
			[]string{"--manifests cannot be combined with --kubeconfig or --master"}},
		{"invalid YAML", "a: [", nil, []string{"conf: yaml: line 1: did not find expected node content"}},
		{"a list", "[1]", nil, []string{"conf: not a KubeProxyConfiguration"}},
		{"two documents", header + "---\n" + header, nil, []string{"conf: more than one YAML document"}},
		{"another kind", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration", nil, []string{
			`conf: apiVersion: "kubelet.config.k8s.io/v1beta1" is not kubeproxy.config.k8s.io/v1alpha1`,
			`conf: kind: "KubeletConfiguration" is not KubeProxyConfiguration`}},
		{"empty file", "# empty", nil, []string{`conf: apiVersion: "" is not kubeproxy.config.k8s.io/v1alpha1`,
			`conf: kind: "" is not KubeProxyConfiguration`}},
		{"types", header + "oomScoreAdj: high\nconfigSyncPeriod: soon\nconntrack: 7\nnodePortAddresses: primary\nipvs: {tcpTimeout: 3}", nil,
			[]string{`conf: configSyncPeriod: time: invalid duration "soon"`, "conf: conntrack: 7 is not of type object",
				"conf: ipvs.tcpTimeout: 3 is not of type string", "conf: nodePortAddresses: primary is not of type []string",
				"conf: oomScoreAdj: high is not of type int32"}},
		{"values", header + `clientConnection: {kubeconfig: x}
mode: userspace
clusterCIDR: 10.0.0.0/8,11.0.0.0/8
detectLocalMode: Guess
nodePortAddresses: [primary, everywhere]
bindAddress: here
nftables: {minSyncPeriod: -1s}
healthzBindAddress: 192.0.2.1:0
metricsBindAddress: localhost:1
conntrack: {maxPerCore: -1, min: -2, tcpEstablishedTimeout: -1s, tcpCloseWaitTimeout: 1ms, udpTimeout: -2s, udpStreamTimeout: -3s}
oomScoreAdj: 1001
logging: {format: xml}
`, nil, []string{
			`conf: clusterCIDR: "10.0.0.0/8,11.0.0.0/8" contains more than one CIDR of a family`,
			`conf: detectLocalMode: "Guess" is not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`,
			`conf: nodePortAddresses: "everywhere" is not a CIDR such as 10.0.0.0/16 or fd00::/64, nor primary, localhost or all`,
			`conf: bindAddress: "here" is not an IP address`,
			`conf: mode: "userspace" is not one of nftables, iptables, ipvs`,
			`conf: nftables.minSyncPeriod: -1s is less than 0`,
			`conf: healthzBindAddress: "192.0.2.1:0" is not an IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			`conf: metricsBindAddress: "localhost:1" is not an IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			`conf: conntrack.maxPerCore: -1 is less than 0`,
			`conf: conntrack.min: -2 is less than 0`,
			`conf: conntrack.tcpEstablishedTimeout: -1s is less than 0`,
			`conf: conntrack.tcpCloseWaitTimeout: 1ms is less than a second`,
			`conf: conntrack.udpTimeout: -2s is less than 0`,
			`conf: conntrack.udpStreamTimeout: -3s is less than 0`,
			`conf: oomScoreAdj: 1001 is not between -1000 and 1000`,
			`conf: logging.format: "xml" is neither text nor json`,
		}},
		{"flags", "", []string{"--kubeconfig=x", "--session-affinity-size=0", "--maglev-table-size=1000", "--max-service-elements=0", "--max-elements=0", "--connection-counters=all", "--unserved-ports=reject", "--external-ips=", "--load-balancer-ips=none,10.0.0.0/8", "--oom-score-adj=4294967296", "--metrics-bind-address=:1",
			"--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses=banana", "--cleanup", "--init-only=false"}, []string{
			"--cleanup: use the command nfproxy cleanup instead",
			"--session-affinity-size: 0 is less than 1",
			"--maglev-table-size: 1000 is not a prime from 3 to 65521",
			"--max-service-elements: 0 is less than 1",
			"--max-elements: 0 is less than 1",
			`--connection-counters: "all" is not one of none, services, endpoints`,
			`--unserved-ports: "reject" is not one of refuse, drop, pass`,
			`--external-ips: "" is not one of any, none, CIDR[,CIDR...]`,
			`--load-balancer-ips: "none" is not a CIDR such as 10.0.0.0/16 or fd00::/64`,
			`--nodeport-addresses: "banana" is not a CIDR such as 10.0.0.0/16 or fd00::/64, nor primary, localhost or all`,
			`--metrics-bind-address: ":1" is not an IP address with a port, such as 127.0.0.1:10249 or [::1]:10249`,
			"--oom-score-adj: 2147483647 is not between -1000 and 1000",
		}},
		{"service proxy name", "", []string{"--kubeconfig=x", "--service-proxy-name=a/b"}, []string{
			`--service-proxy-name: "a/b" is not the value of a label: letters and digits, with "-", "_" and "." between them`}},
		{"negative delay", "", []string{"--kubeconfig=x", "--reset-gone-endpoints=-1s"}, []string{
			"--reset-gone-endpoints: -1s is neither 0 nor between 1s and 15m"}},
		{"short delay", "", []string{"--kubeconfig=x", "--reset-gone-endpoints=999ms"}, []string{
			"--reset-gone-endpoints: 999ms is neither 0 nor between 1s and 15m"}},
		{"long delay", "", []string{"--kubeconfig=x", "--reset-gone-endpoints=15m1s"}, []string{
			"--reset-gone-endpoints: 15m1s is neither 0 nor between 1s and 15m"}},
		{"a flag beside a file", header + "clientConnection: {kubeconfig: x}\noomScoreAdj: 1001", []string{"--logging-format=xml"}, []string{
			"conf: oomScoreAdj: 1001 is not between -1000 and 1000", `--logging-format: "xml" is neither text nor json`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := configured(t, tc.file, tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			compare(t, strings.Split(err.Error(), "\n"), tc.want)
		})
	}
}

// TestConfigureNewer: a file of a newer Kubernetes ends with errors that name the field, the value and the accepted values.
// Nothing of it is used, also not with a flag that would make the rest valid.
func TestConfigureNewer(t *testing.T) {
	const rest = "kind: KubeProxyConfiguration\nclusterCIDR: 10.246.0.0/16\nclientConnection: {kubeconfig: x}\n"
	for _, tc := range []struct{ file, want string }{
		{"apiVersion: kubeproxy.config.k8s.io/v1beta1\n" + rest + "mode: ebpf",
			`conf: apiVersion: "kubeproxy.config.k8s.io/v1beta1" is not kubeproxy.config.k8s.io/v1alpha1`},
		{"apiVersion: kubeproxy.config.k8s.io/v1alpha2\n" + rest,
			`conf: apiVersion: "kubeproxy.config.k8s.io/v1alpha2" is not kubeproxy.config.k8s.io/v1alpha1`},
		{header + "mode: ebpf", `conf: mode: "ebpf" is not one of nftables, iptables, ipvs`},
		{header + "mode: NFTables", `conf: mode: "NFTables" is not one of nftables, iptables, ipvs`},
		{header + "detectLocalMode: VRF",
			`conf: detectLocalMode: "VRF" is not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix`},
		{header + "nodePortAddresses: [secondary]",
			`conf: nodePortAddresses: "secondary" is not a CIDR such as 10.0.0.0/16 or fd00::/64, nor primary, localhost or all`},
		{header + "logging: {format: cbor}", `conf: logging.format: "cbor" is neither text nor json`},
		{header + "nodePortAddresses: {primary: true}", `conf: nodePortAddresses.primary: true is not of type []string`},
		{header + "detectLocalMode: [ClusterCIDR]", `conf: detectLocalMode: [ClusterCIDR] is not of type string`},
	} {
		s, _, err := configured(t, tc.file, "--master=https://192.0.2.1", "--proxy-mode=nftables")
		if err == nil || err.Error() != tc.want {
			t.Errorf("error %v, want %s", err, tc.want)
		}
		if tc.file[:len(header)] != header {
			compare(t, s, Settings{})
		}
	}
}

// TestConfigureServiceProxyName: beside another proxy, the servers, the limits of connection tracking and the service CIDRs are left to
// that proxy, unless they are set. A file has no field for the name.
func TestConfigureServiceProxyName(t *testing.T) {
	s, warnings, err := configured(t, "", "--kubeconfig", "/etc/kubeconfig", "--hostname-override", "node-a", "--service-proxy-name", "blue",
		"--service-cidr", "10.96.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	want := defaultSettings()
	want.Node.Instance, err = render.NewInstance("blue")
	if err != nil {
		t.Fatal(err)
	}
	want.Healthz, want.Metrics, want.Conntrack = "", "", Conntrack{}
	compare(t, s, want)
	compare(t, warnings, []string{"--service-cidr: has no effect with --service-proxy-name: unused addresses belong to another proxy"})

	s, warnings, err = configured(t, header+"clientConnection: {kubeconfig: x}\nhealthzBindAddress: 0.0.0.0:10266\nconntrack: {min: 7}",
		"--service-proxy-name", "blue", "--hostname-override", "node-a")
	if err != nil || s.Node.Instance.Name() != "blue" || s.Healthz != "0.0.0.0:10266" || s.Metrics != "" || s.Conntrack != (Conntrack{Min: 7}) || len(warnings) > 0 {
		t.Errorf("with a file: %+v, %v, %v", s, warnings, err)
	}
}

// TestServiceProxyNameIsLabelValue: exactly the values of labels are names.
func TestServiceProxyNameIsLabelValue(t *testing.T) {
	for _, name := range []string{"", "a", "A-b_c.9", "9", "-a", "a-", "_", ".a", "a b", "a/b", "a\x00", "é", strings.Repeat("x", 63), strings.Repeat("x", 64)} {
		_, err := render.NewInstance(name)
		if problems := validation.IsValidLabelValue(name); (err == nil) != (len(problems) == 0) {
			t.Errorf("%q: %v; Kubernetes: %q", name, err, problems)
		}
	}
}
