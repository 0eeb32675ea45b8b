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

// KubeProxyTables are the nftables tables of kube-proxy's in a survey.
func KubeProxyTables(survey []kernel.SurveyedTable) []*nft.Table {
	var tables []*nft.Table
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		has := func(t kernel.SurveyedTable) bool { return t.Family == f.String() && t.Name == kubeProxyName }
		if slices.ContainsFunc(survey, has) {
			tables = append(tables, &nft.Table{TableID: nft.TableID{Family: f, Name: kubeProxyName}})
		}
	}
	return tables
}

// KubeProxyElsewhere is what kube-proxy has in the node but for its nftables tables, itself included. What there is none
// of has no line.
func (n Node) KubeProxyElsewhere(survey []kernel.SurveyedTable) []Line {
	lines := slices.Concat([]Line{iptablesOverNFT(survey)}, n.iptablesLegacy(), n.ipvs(), n.daemon())
	return slices.DeleteFunc(lines, func(l Line) bool { return l.Level == OK })
}

func kubeProxyTables(survey []kernel.SurveyedTable) Line {
	var names []string
	for _, t := range KubeProxyTables(survey) {
		names = append(names, t.TableID.String())
	}
	if len(names) == 0 {
		return ok("kube-proxy-nftables", "there is no table of kube-proxy's")
	}
	return warning("kube-proxy-nftables", "table %s: its rules decide as well, by what kube-proxy knew last", some(names)).
		advise("when kube-proxy does not run any more: nfproxy cleanup --kube-proxy")
}

// kubelets are chains that the kubelet makes, in this version or an earlier one (pkg/kubelet/kubelet_network_linux.go).
var kubelets = []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-MARK-DROP", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"}

// iptablesOverNFT looks for kube-proxy's chains among those of iptables-nft, which are in nftables.
func iptablesOverNFT(survey []kernel.SurveyedTable) Line {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			if strings.HasPrefix(c.Name, "KUBE-") && !slices.Contains(kubelets, c.Name) {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	if len(names) == 0 {
		return ok("kube-proxy-iptables", "iptables-nft has no chain of kube-proxy's")
	}
	return warning("kube-proxy-iptables", "iptables-nft has %d of kube-proxy's chains (%s): their rules decide as well, by what kube-proxy knew last",
		len(names), some(names)).
		advise("when kube-proxy does not run any more: kube-proxy --cleanup, or iptables-nft-save | " +
			"grep -v KUBE- | iptables-nft-restore; the same with ip6tables-nft. The kubelet makes its own chains again")
}

// ipvs looks for what kube-proxy in mode ipvs leaves: virtual services, and the interface that has their addresses.
func (n Node) ipvs() []Line {
	services := 0
	table, err := n.read("proc/net/ip_vs") // it is there when the module is loaded
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return []Line{warning("ipvs", "its virtual services cannot be read: %v", err)}
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
	if interfaces, _ := n.read("proc/net/dev"); strings.Contains(interfaces, "kube-ipvs0:") {
		found = append(found, "the interface kube-ipvs0")
	}
	if len(found) == 0 {
		return []Line{ok("ipvs", "it has no virtual service")}
	}
	return []Line{warning("ipvs", "there are %s: addresses of Services are this node's own", strings.Join(found, " and ")).
		advise("when kube-proxy does not run any more: kube-proxy --cleanup, or ipvsadm --clear, if nobody else uses IPVS, and ip link delete kube-ipvs0")}
}

// daemon says which service proxy runs on the node, by who answers for its health: kube-proxy has no /readyz there.
func (n Node) daemon() []Line {
	answer, err := n.Client.Get("http://" + n.Healthz + "/readyz")
	if err != nil {
		return []Line{ok("daemon", "no service proxy answers at %s", n.Healthz)}
	}
	answer.Body.Close()
	if answer.StatusCode == http.StatusOK || answer.StatusCode == http.StatusServiceUnavailable {
		return []Line{ok("daemon", "an nfproxy answers at %s", n.Healthz)}
	}
	return []Line{warning("daemon", "another service proxy answers at %s, likely kube-proxy: both would serve the same Services", n.Healthz).
		advise("nothing, while one takes over from the other; end it before what it left is removed: it would put it back")}
}
