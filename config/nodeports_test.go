package config

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// TestNodePortSettings: nodePortAddresses is any mixture of primary, localhost, all and CIDRs, as in Kubernetes 1.37.
func TestNodePortSettings(t *testing.T) {
	const loopback = "conf nodePortAddresses: node ports are not served at loopback addresses without the feature gate KubeProxyNFTablesLocalhostNodePorts"
	for _, tc := range []struct {
		list   string
		want   NodePorts
		ranges string
		warn   []string
	}{
		{list: "", want: NodePorts{Primary: true}},
		{list: "primary", want: NodePorts{Primary: true}},
		{list: "all", want: NodePorts{All: true}, ranges: "0.0.0.0/0,::/0"},
		{list: "localhost", want: NodePorts{Localhost: true}, ranges: "127.0.0.0/8,::1/128", warn: []string{loopback}},
		{list: "192.0.2.9/24, 2001:db8::/32", want: NodePorts{CIDRs: prefixes(t, "192.0.2.0/24,2001:db8::/32")}, ranges: "192.0.2.0/24,2001:db8::/32"},
		{list: "192.0.2.9/24", want: NodePorts{CIDRs: prefixes(t, "192.0.2.0/24,::/0")}, ranges: "192.0.2.0/24,::/0"},
		{list: "2001:db8::/32", want: NodePorts{CIDRs: prefixes(t, "2001:db8::/32,0.0.0.0/0")}, ranges: "2001:db8::/32,0.0.0.0/0"},
		{
			list:   "127.0.0.1/32",
			want:   NodePorts{CIDRs: prefixes(t, "127.0.0.1/32,::/0")},
			ranges: "127.0.0.1/32,::/0",
			warn:   []string{loopback},
		},
		{
			list:   "primary, 192.0.2.0/24",
			want:   NodePorts{Primary: true, CIDRs: prefixes(t, "192.0.2.0/24")},
			ranges: "192.0.2.0/24",
		},
		{
			list:   "2001:db8::/32, localhost, primary, primary, all, 192.0.2.0/24",
			want:   NodePorts{Primary: true, Localhost: true, All: true, CIDRs: prefixes(t, "2001:db8::/32,192.0.2.0/24")},
			ranges: "0.0.0.0/0,::/0,127.0.0.0/8,::1/128,2001:db8::/32,192.0.2.0/24",
			warn:   []string{loopback},
		},
	} {
		s, warnings, err := configured(t, header+"nodePortAddresses: ["+tc.list+"]\nclientConnection: {kubeconfig: x}")
		if err != nil {
			t.Errorf("%q: %v", tc.list, err)
			continue
		}
		compare(t, s.NodePorts, tc.want)
		compare(t, s.NodePorts.Ranges(), prefixes(t, tc.ranges))
		compare(t, warnings, tc.warn)
	}
}

// TestBindAddressLoopback: with a loopback bindAddress the machine has no primary address of its family. Then node ports are
// served at all addresses of the family, unless nodePortAddresses has ranges of it (kube-proxy: detectNodeIPs and
// newProxyServer in cmd/kube-proxy/app/server.go, NewNodePortAddresses in pkg/proxy/util/nodeport_addresses.go).
func TestBindAddressLoopback(t *testing.T) {
	for _, tc := range []struct {
		bind, list string
		ranges     string
		warn       []string
	}{
		{"127.0.0.1", "", "0.0.0.0/0", []string{"conf bindAddress: a loopback address: node ports are served at all IPv4 addresses"}},
		{"127.1.2.3", "primary", "0.0.0.0/0", []string{"conf bindAddress: a loopback address: node ports are served at all IPv4 addresses"}},
		{"'::1'", "primary", "::/0", []string{"conf bindAddress: a loopback address: node ports are served at all IPv6 addresses"}},
		{"127.0.0.1", "primary, '2001:db8::/32'", "2001:db8::/32,0.0.0.0/0",
			[]string{"conf bindAddress: a loopback address: node ports are served at all IPv4 addresses"}},
		{"127.0.0.1", "primary, 192.0.2.0/24", "192.0.2.0/24", nil},
		{"127.0.0.1", "192.0.2.0/24", "192.0.2.0/24,::/0", nil},
		{"127.0.0.1", "'2001:db8::/32'", "2001:db8::/32,0.0.0.0/0", nil},
		{"127.0.0.1", "all", "0.0.0.0/0,::/0", nil},
		{"192.0.2.1", "primary", "", nil},
		{"0.0.0.0", "primary", "", nil},
		{"'::'", "primary", "", nil},
	} {
		s, warnings, err := configured(t, header+"bindAddress: "+tc.bind+"\nnodePortAddresses: ["+tc.list+"]\nclientConnection: {kubeconfig: x}")
		if err != nil {
			t.Errorf("%s %q: %v", tc.bind, tc.list, err)
			continue
		}
		compare(t, s.NodePorts.Ranges(), prefixes(t, tc.ranges))
		compare(t, warnings, tc.warn)
	}
	s, _, err := configured(t, "", "--kubeconfig=x", "--bind-address=127.0.0.1")
	if err != nil || s.PrimaryIP != netip.MustParseAddr("127.0.0.1") || !s.NodePorts.Primary {
		t.Errorf("primary IP %v, node ports %+v, %v", s.PrimaryIP, s.NodePorts, err)
	}
}

// TestLocalhostNodePorts: node ports are served at 127.0.0.1 or ::1 if a range within the loopback addresses asks for it. In a
// file this needs the feature gate, as in kube-proxy 1.37; a flag does not.
func TestLocalhostNodePorts(t *testing.T) {
	const (
		gate    = "KubeProxyNFTablesLocalhostNodePorts"
		without = "node ports are not served at loopback addresses without the feature gate " + gate
		both    = "127.0.0.1 ::1"
	)
	for _, tc := range []struct {
		list, gates string
		file, flag  string // the addresses
		// fileWarn and flagWarn are warnings; those of a gate are its name.
		fileWarn, flagWarn string
	}{
		{list: "primary"},
		{list: "all"},
		{list: "localhost", flag: both, fileWarn: without},
		{list: "primary,localhost", flag: both, fileWarn: without},
		{list: "all,localhost", flag: both, fileWarn: without},
		{list: "127.0.0.0/8", flag: "127.0.0.1", fileWarn: without},
		{list: "127.5.0.0/16,::/0", flag: "127.0.0.1", fileWarn: without},
		{list: "::1/128,192.0.2.0/24", flag: "::1", fileWarn: without},
		{list: "126.0.0.0/7"},
		{list: "localhost", gates: gate + "=true", file: both, flag: both},
		{list: "localhost", gates: gate + "=false", fileWarn: without, flagWarn: without},
		{list: "localhost", gates: "AllAlpha=true", file: both, flag: both},
		{list: "localhost", gates: "AllAlpha=true," + gate + "=false", fileWarn: without, flagWarn: without},
		{list: "localhost", gates: "AllAlpha=false," + gate + "=true", file: both, flag: both, fileWarn: "AllAlpha", flagWarn: "AllAlpha"},
		{list: "localhost", gates: "AllAlpha=false", flag: both, fileWarn: without, flagWarn: "AllAlpha"},
		{list: "all", gates: gate + "=true", fileWarn: gate, flagWarn: gate},
		{list: "primary", gates: gate + "=false"},
	} {
		check := func(how, want, warn, file string, args ...string) {
			t.Helper()
			s, warnings, err := configured(t, file, args...)
			if err != nil {
				t.Errorf("%s, %q, gates %q: %v", how, tc.list, tc.gates, err)
				return
			}
			if got := strings.Trim(fmt.Sprint(s.Node.Loopback), "[]"); got != want {
				t.Errorf("%s, %q, gates %q: %q, want %q", how, tc.list, tc.gates, got, want)
			}
			if text := fmt.Sprint(warnings); !strings.Contains(text, warn) || warn == "" && len(warnings) > 0 {
				t.Errorf("%s, %q, gates %q: warnings %q, want %q", how, tc.list, tc.gates, warnings, warn)
			}
		}
		fields := strings.NewReplacer("=", ": ", ",", ", ").Replace(tc.gates)
		list := "'" + strings.ReplaceAll(tc.list, ",", "', '") + "'"
		check("file", tc.file, tc.fileWarn,
			header+"nodePortAddresses: ["+list+"]\nfeatureGates: {"+fields+"}\nclientConnection: {kubeconfig: x}")
		check("flag", tc.flag, tc.flagWarn, "", "--kubeconfig=x", "--nodeport-addresses="+tc.list, "--feature-gates="+tc.gates)
	}
}
