package preflight

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// kubeProxyName is the name of kube-proxy's nftables tables.
const kubeProxyName = "kube-proxy"

// KubeProxyTables returns kube-proxy's nftables tables in the survey, without their contents.
func KubeProxyTables(survey []kernel.SurveyedTable) []*nft.Table {
	var tables []*nft.Table
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		isKubeProxy := func(t kernel.SurveyedTable) bool { return t.Family == f.String() && t.Name == kubeProxyName }
		if slices.ContainsFunc(survey, isKubeProxy) {
			tables = append(tables, &nft.Table{TableID: nft.TableID{Family: f, Name: kubeProxyName}})
		}
	}
	return tables
}

// KubeProxyLeftovers returns a line for everything that kube-proxy has on the node except its nftables tables: chains in
// iptables, virtual services in IPVS, and a kube-proxy that still runs. It returns no line with the level OK.
func (n Node) KubeProxyLeftovers(survey []kernel.SurveyedTable) []Line {
	lines := slices.Concat([]Line{n.iptablesNFT(survey)}, n.iptablesLegacy(), n.ipvs(), n.daemon())
	return slices.DeleteFunc(lines, func(l Line) bool { return l.Level == OK })
}

// beside reports whether the instance is to run beside another proxy, which serves the Services without a service proxy name.
func (n Node) beside() bool { return n.Instance.Name() != "" }

// kubeProxyTables checks for nftables tables of kube-proxy.
func (n Node) kubeProxyTables(survey []kernel.SurveyedTable) Line {
	var names []string
	for _, t := range KubeProxyTables(survey) {
		names = append(names, t.TableID.String())
	}
	if len(names) == 0 {
		return ok("kube-proxy-nftables", "no tables of kube-proxy")
	}
	if n.beside() {
		return ok("kube-proxy-nftables", "kube-proxy tables: %s; they serve the Services without a service proxy name", joinNames(names))
	}
	return warning("kube-proxy-nftables", "kube-proxy tables: %s; their rules still apply, as last written by kube-proxy", joinNames(names)).
		advise("after kube-proxy has stopped: nfproxy cleanup --kube-proxy")
}

// kubeletChains are the chains that current or earlier kubelets create (pkg/kubelet/kubelet_network_linux.go).
var kubeletChains = []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-MARK-DROP", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"}

// kubeRouterChains are the beginnings of the names of kube-router's chains: those of its service proxy, which forwardingProxies
// finds, and those of network policies, which K3s has too.
var kubeRouterChains = []string{"KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-"}

// ofKubeProxy reports whether a chain of iptables is kube-proxy's.
func ofKubeProxy(chain string) bool {
	ofKubeRouter := func(prefix string) bool { return strings.HasPrefix(chain, prefix) }
	return strings.HasPrefix(chain, "KUBE-") && !slices.Contains(kubeletChains, chain) && !slices.ContainsFunc(kubeRouterChains, ofKubeRouter)
}

// kubeProxyChains returns the names of kube-proxy's chains of iptables, with their tables.
func kubeProxyChains(survey []kernel.SurveyedTable) []string {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			if ofKubeProxy(c.Name) {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	return names
}

// iptablesNFT checks for chains of kube-proxy in the nftables tables of iptables-nft.
func (n Node) iptablesNFT(survey []kernel.SurveyedTable) Line {
	names := kubeProxyChains(survey)
	if len(names) == 0 {
		return ok("kube-proxy-iptables", "no chains of kube-proxy in iptables-nft")
	}
	if n.beside() {
		return ok("kube-proxy-iptables", "kube-proxy chains in iptables-nft: %d (%s); they serve the Services without a service proxy name",
			len(names), joinNames(names))
	}
	return warning("kube-proxy-iptables", "kube-proxy chains in iptables-nft: %d (%s); their rules still apply, as last written by kube-proxy",
		len(names), joinNames(names)).
		advise("after kube-proxy has stopped: kube-proxy --cleanup, or iptables-nft-save | " +
			"grep -v KUBE- | iptables-nft-restore, and the same with ip6tables-nft; the kubelet recreates its own chains")
}

// ipvs checks for what kube-proxy in mode ipvs leaves: virtual services, and the interface that has their addresses.
func (n Node) ipvs() []Line {
	services := 0
	table, err := n.read(threadProc + "/net/ip_vs") // exists if the module is loaded
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Line{warning("ipvs", "virtual services cannot be read: %v", err)}
	}
	for line := range strings.Lines(table) {
		if kind, _, _ := strings.Cut(line, " "); slices.Contains([]string{"TCP", "UDP", "SCTP", "FWM"}, kind) {
			services++
		}
	}
	var found []string
	if services > 0 {
		found = append(found, fmt.Sprintf("%d virtual services", services))
	}
	if interfaces, _ := n.read(threadProc + "/net/dev"); strings.Contains(interfaces, "kube-ipvs0:") {
		found = append(found, "the interface kube-ipvs0")
	}
	if len(found) == 0 {
		return []Line{ok("ipvs", "no virtual services")}
	}
	return []Line{warning("ipvs", "found %s: Service addresses are local addresses of this node", strings.Join(found, " and ")).
		advise("after kube-proxy has stopped: kube-proxy --cleanup, or ip link delete kube-ipvs0 and, if no other program uses IPVS, ipvsadm --clear")}
}

// daemon checks for a running service proxy at the health address. Only nfproxy serves /readyz there; kube-proxy does not.
func (n Node) daemon() []Line {
	response, err := n.Client.Get("http://" + n.Healthz + "/readyz")
	if err != nil {
		return []Line{ok("daemon", "no service proxy answers at %s", n.Healthz)}
	}
	response.Body.Close()
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusServiceUnavailable {
		return []Line{ok("daemon", "nfproxy answers at %s", n.Healthz)}
	}
	if n.beside() {
		return []Line{ok("daemon", "another service proxy, probably kube-proxy, answers at %s; it serves the Services without a service proxy name", n.Healthz)}
	}
	return []Line{warning("daemon", "another service proxy, probably kube-proxy, answers at %s: both would serve the same Services", n.Healthz).
		advise("nothing during a migration; otherwise stop it before you remove its rules, because it would restore them")}
}
