package preflight

import (
	"slices"
	"strings"

	"nfproxy/nft/kernel"
)

// otherProxy is a network plugin that can serve Services itself, and how it is recognised.
type otherProxy struct {
	name string
	// chains are beginnings of names of chains in nftables, including those of iptables-nft; tables are names of tables.
	chains, tables []string
	links          []string
	// serves reports that what is recognised exists only where the plugin serves Services.
	serves bool
	// meaning is what it does to Services. advice is what to do.
	meaning, advice string
}

// otherProxies returns the plugins. kube-proxy has checks of its own (kubeproxy.go).
func otherProxies() []otherProxy {
	return []otherProxy{
		{name: "Cilium", chains: []string{"CILIUM_"}, links: []string{"cilium_host"},
			meaning: "its BPF programs serve cluster IPs for Pods, and with kubeProxyReplacement all Services",
			advice:  "set Cilium's kubeProxyReplacement to false; the check socket-lb shows programs that still connect sockets"},
		{name: "Calico in eBPF mode", links: []string{"bpfin.cali"}, serves: true,
			meaning: "its BPF programs serve all Services",
			advice:  "set bpfEnabled to false in Calico's FelixConfiguration, or do not run nfproxy"},
		{name: "kube-router's service proxy", links: []string{"kube-dummy-if"}, chains: []string{"KUBE-ROUTER-SERVICES"}, serves: true,
			meaning: "it serves all Services with IPVS",
			advice:  "run kube-router with --run-service-proxy=false, and remove what it left: kube-router --cleanup-config"},
		{name: "Antrea", links: []string{"antrea-gw0"}, chains: []string{"ANTREA-"},
			meaning: "AntreaProxy serves cluster IPs for Pods in Open vSwitch, and with antreaProxy.proxyAll all Services",
			advice:  "set Antrea's antreaProxy.proxyAll to false"},
		{name: "OVN-Kubernetes", links: []string{"ovn-k8s-mp0"}, tables: []string{"ovn-kubernetes"}, serves: true,
			meaning: "it serves all Services in Open vSwitch",
			advice:  "do not run nfproxy beside it"},
	}
}

// forwardingProxies checks for network plugins that serve Services themselves.
func (n Node) forwardingProxies(survey []kernel.SurveyedTable) []Line {
	links, err := n.Links()
	if err != nil {
		return []Line{warning("other-proxies", "network interfaces cannot be listed: %v", err)}
	}
	var lines []Line
	for _, p := range otherProxies() {
		signs := p.signs(links, survey)
		switch {
		case len(signs) == 0:
		case p.serves && !n.beside():
			lines = append(lines, warning("other-proxies", "%s (%s): %s, beside nfproxy or before it", p.name, joinNames(signs), p.meaning).advise(p.advice))
		default:
			lines = append(lines, ok("other-proxies", "%s (%s): %s", p.name, joinNames(signs), p.meaning).advise(p.advice))
		}
	}
	if len(lines) == 0 {
		return []Line{ok("other-proxies", "no sign of a network plugin that serves Services")}
	}
	return lines
}

// signs returns the links, tables and chains by which the plugin is recognised.
func (p otherProxy) signs(links []string, survey []kernel.SurveyedTable) []string {
	var found []string
	for _, l := range p.links {
		if slices.Contains(links, l) {
			found = append(found, "interface "+l)
		}
	}
	for _, t := range survey {
		if slices.Contains(p.tables, t.Name) {
			found = append(found, "table "+t.String())
		}
		for _, c := range t.Chains {
			if slices.ContainsFunc(p.chains, func(prefix string) bool { return strings.HasPrefix(c.Name, prefix) }) {
				found = append(found, "chain "+t.String()+" "+c.Name)
			}
		}
	}
	return found
}
