package preflight

import (
	"fmt"
	"slices"

	"nfproxy/nft/kernel"
	"nfproxy/render"
	"nfproxy/report"
)

// tables checks the node's nftables tables: those of nfproxy, of kube-proxy, and of other programs that affect Services.
func (n Node) tables() []Line {
	k, err := n.Open()
	if err != nil {
		return n.listeners(report.Description{}) // Essential reports the error
	}
	defer k.Close()
	survey, err := k.Survey()
	if err != nil {
		return []Line{warning("tables", "tables cannot be listed: %v", err)}
	}
	lines, served := n.nfproxyTables(k)
	legacy, _ := n.legacyTables() // iptablesLegacy reports the error
	return slices.Concat(lines, n.otherInstances(survey), n.otherTables(survey), n.forwardingProxies(slices.Concat(survey, surveyed(legacy))),
		n.untracked(survey, legacy, served), n.listeners(served))
}

// nfproxyTables checks the tables that an earlier or a running nfproxy made, and returns what they serve.
func (n Node) nfproxyTables(k *kernel.Conn) ([]Line, report.Description) {
	tables, _, err := k.Read(n.Instance.TableIDs()...)
	if err != nil {
		return []Line{warning("nfproxy-tables", "tables of nfproxy cannot be read: %v", err)}, report.Description{}
	}
	if len(tables) == 0 {
		return []Line{ok("nfproxy-tables", "no tables of nfproxy%s", ofName(n.Instance))}, report.Description{}
	}
	var lines []Line
	served := report.Describe(tables)
	for _, t := range served.Tables {
		if t.Schema == render.SchemaVersion {
			lines = append(lines, ok("nfproxy-tables", "table %s nfproxy%s has the current schema: nfproxy run adopts it", t.Family, n.Instance.Suffix()))
		} else {
			lines = append(lines, warning("nfproxy-tables", "table %s nfproxy%s has schema %d, not %d: nfproxy run replaces it", t.Family,
				n.Instance.Suffix(), t.Schema, render.SchemaVersion).advise("choose the time of the restart: session affinity and counters start over"))
		}
	}
	return lines, served
}

// ofName returns the words that name an instance, empty for the zero Instance.
func ofName(i render.Instance) string {
	if i.Name() == "" {
		return ""
	}
	return " of the service proxy name " + i.Name()
}

// otherInstances lists the tables of other instances of nfproxy.
func (n Node) otherInstances(survey []kernel.SurveyedTable) []Line {
	var names []string
	for _, t := range survey {
		if i, err := render.InstanceOf(t.Name); err == nil && !i.Equal(n.Instance) {
			names = append(names, t.String())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Line{ok("nfproxy-instances", "%s: another nfproxy serves Services of another service proxy name there", joinNames(names))}
}

// otherTables checks the tables that are not nfproxy's.
func (n Node) otherTables(survey []kernel.SurveyedTable) []Line {
	lines := []Line{n.kubeProxyTables(survey), n.iptablesNFT(survey)}
	return append(append(lines, natChains(survey)), forwardPolicies(survey)...)
}

// thirdParty reports whether a table belongs neither to an nfproxy nor to kube-proxy.
func thirdParty(t kernel.SurveyedTable) bool {
	_, err := render.InstanceOf(t.Name)
	return err != nil && t.Name != kubeProxyName
}

// natChains lists third-party chains of type nat at the hooks and priorities of nfproxy's chains.
func natChains(survey []kernel.SurveyedTable) Line {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			priority := int32(-100)
			if c.Hook == "postrouting" {
				priority = 100
			}
			if thirdParty(t) && c.Type == "nat" && c.Priority == priority && c.Hook != "input" {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	if len(names) == 0 {
		return ok("nat-chains", "no other chain of type nat at the priorities of nfproxy")
	}
	return ok("nat-chains", "%s at the priorities of nfproxy: the first chain to translate a connection wins", joinNames(names))
}

// forwardPolicies lists third-party chains at the forward hook with policy drop.
func forwardPolicies(survey []kernel.SurveyedTable) []Line {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			if thirdParty(t) && c.Hook == "forward" && c.Drops {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Line{ok("forward-policy", "policy drop in %s: its rules must accept packets to and from Pods; nfproxy adds no such rules", joinNames(names))}
}

// iptablesLegacy checks for chains of kube-proxy in the tables of iptables-legacy, which nftables does not show.
func (n Node) iptablesLegacy() []Line {
	tables, err := n.legacyTables()
	if err != nil {
		return []Line{warning("iptables-legacy", "tables cannot be read: %v", err)}
	}
	names := kubeProxyChains(surveyed(tables))
	if len(names) == 0 {
		return []Line{ok("iptables-legacy", "no chains of kube-proxy in iptables-legacy")}
	}
	if n.beside() {
		return []Line{ok("iptables-legacy", "kube-proxy chains in iptables-legacy: %d (%s); they serve the Services without a service proxy name",
			len(names), joinNames(names))}
	}
	return []Line{warning("iptables-legacy", "kube-proxy chains in iptables-legacy: %d (%s); their rules still apply, as last written by kube-proxy",
		len(names), joinNames(names)).
		advise("after kube-proxy has stopped: kube-proxy --cleanup, or iptables-legacy-save | " +
			"grep -v KUBE- | iptables-legacy-restore, and the same with ip6tables-legacy; the kubelet recreates its own chains")}
}

// surveyed returns the tables of iptables-legacy with their chains.
func surveyed(tables []legacyTable) []kernel.SurveyedTable {
	var all []kernel.SurveyedTable
	for _, t := range tables {
		all = append(all, t.SurveyedTable)
	}
	return all
}
