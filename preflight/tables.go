package preflight

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"nfproxy/nft/kernel"
	"nfproxy/render"

	"nfproxy/report"
)

// tables says what is in the node's nftables: of ours, of kube-proxy's, and of others that Services have to live with.
func (n Node) tables() []Line {
	k, err := n.Open()
	if err != nil {
		return nil // there is a line about it
	}
	defer k.Close()
	survey, err := k.Survey()
	if err != nil {
		return []Line{warning("tables", "the tables cannot be listed: %v", err)}
	}
	return append(ours(k), others(survey)...)
}

// ours are the tables that an nfproxy left or keeps.
func ours(k *kernel.Conn) []Line {
	tables, _, err := k.Read(render.TableIDs()...)
	if err != nil {
		return []Line{warning("nfproxy-tables", "nfproxy's own tables cannot be read: %v", err)}
	}
	if len(tables) == 0 {
		return []Line{ok("nfproxy-tables", "there is none of nfproxy's tables")}
	}
	var lines []Line
	for _, t := range report.Describe(tables).Tables {
		if t.Schema == render.SchemaVersion {
			lines = append(lines, ok("nfproxy-tables", "table %s nfproxy is there, of this schema: a start takes it over", t.Family))
		} else {
			lines = append(lines, warning("nfproxy-tables", "table %s nfproxy is of schema %d, not %d: a start replaces it", t.Family,
				t.Schema, render.SchemaVersion).advise("nothing, or choose the moment: session affinity and counters begin anew"))
		}
	}
	return lines
}

// others are the tables that are not ours.
func others(survey []kernel.SurveyedTable) []Line {
	lines := []Line{kubeProxyTables(survey), iptablesOverNFT(survey)}
	return append(append(lines, natChains(survey)), forwardPolicies(survey)...)
}

// foreign says whether a table is neither ours nor kube-proxy's.
func foreign(t kernel.SurveyedTable) bool { return t.Name != "nfproxy" && t.Name != kubeProxyName }

// natChains are those of others that see the first packet of a connection where ours do.
func natChains(survey []kernel.SurveyedTable) Line {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			priority := int32(-100)
			if c.Hook == "postrouting" {
				priority = 100
			}
			if foreign(t) && c.Type == "nat" && c.Priority == priority && c.Hook != "input" {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	if len(names) == 0 {
		return ok("nat-chains", "nobody else has a chain of type nat at the priorities of ours")
	}
	return ok("nat-chains", "%s at the priorities of ours: who translates a connection first has it", some(names))
}

// forwardPolicies are chains that drop what is routed unless a rule lets it pass.
func forwardPolicies(survey []kernel.SurveyedTable) []Line {
	var names []string
	for _, t := range survey {
		for _, c := range t.Chains {
			if foreign(t) && c.Hook == "forward" && c.Drops {
				names = append(names, fmt.Sprintf("%s %s", t, c.Name))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Line{ok("forward-policy", "%s drops by its policy: it must let packets to and from pods pass, nfproxy does not see to that", some(names))}
}

// iptablesLegacy says whether iptables has tables that are not nftables'. What is in them only iptables can tell.
func (n Node) iptablesLegacy() []Line {
	var files []string
	for _, file := range []string{"proc/net/ip_tables_names", "proc/net/ip6_tables_names"} {
		names, err := n.read(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return []Line{warning("iptables-legacy", "which tables it has cannot be read: %v", err)}
		}
		for name := range strings.FieldsSeq(names) {
			if name == "nat" {
				files = append(files, strings.TrimSuffix(strings.TrimPrefix(file, "proc/net/"), "_names"))
			}
		}
	}
	if len(files) == 0 {
		return []Line{ok("iptables-legacy", "it has no table nat")}
	}
	return []Line{warning("iptables-legacy", "%s has a table nat, which cannot be looked into without iptables", some(files)).
		advise("if iptables-legacy-save shows chains KUBE-SVC-..., kube-proxy left them: " +
			"kube-proxy --cleanup removes them, or iptables-legacy-save | grep -v KUBE- | iptables-legacy-restore; the same with ip6tables-legacy")}
}
