package trace

import (
	"net/netip"
	"strings"

	"nfproxy/nft"
)

// Journey is what became of the first packet of one connection. Its JSON form is what `nfproxy trace -o json` prints.
type PacketTrace struct {
	// Service is the port of the Service that the packet came to, "namespace/name:port"; empty if it is none's.
	Service     string         `json:"service,omitempty"`
	Protocol    string         `json:"protocol"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// In and Out are the interfaces it came in and went out by; empty for this machine.
	In    string `json:"in,omitempty"`
	Out   string `json:"out,omitempty"`
	Steps []Step `json:"steps"`
	// Outcome is that of nft.Trace: accepted, dropped, reset or unreachable; or Unknown.
	Outcome string `json:"outcome"`
	// Endpoint is where it went if that is not where it came to.
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	// NewSource is what its source was replaced by, by whomever; Masqueraded that one of our rules did it.
	Masqueraded bool           `json:"masqueraded"`
	NewSource   netip.AddrPort `json:"newSource,omitzero"`
}

// Unknown is the outcome of a packet of which nothing more was heard: it was dropped outside of nftables, or waits in a
// queue.
const Unknown = "unknown"

// Step is one rule whose matches held, or the end of a chain.
type Step struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	// Rule is the rule as nft writes it if it is ours, "policy" or "end of chain" if it is none, else empty.
	Rule    string `json:"rule,omitempty"`
	Verdict string `json:"verdict"`
}

// Ours says whether the step is in one of our tables.
func (s Step) Ours() bool { return (s.Family == "ip" || s.Family == "ip6") && s.Table == "nfproxy" }

// ruleOf finds a rule of our tables by its handle. It says false for rules of others and those that are gone.
type ruleOf func(e Event) (nft.Rule, bool)

// tell makes a Journey of a packet's events.
func tell(events []Event, marker string, rule ruleOf) PacketTrace {
	first, last := events[0], events[len(events)-1]
	j := PacketTrace{Protocol: first.Packet.Protocol.String(), Source: first.Packet.Source, Destination: first.Packet.Destination,
		In: first.Packet.In, Steps: []Step{}, Outcome: Unknown}
	for _, e := range events {
		if strings.HasPrefix(e.Table, TablePrefix) {
			continue
		}
		r, known := rule(e)
		j.Steps = append(j.Steps, step(e, r, known))
		if _, ok := r.Do.(nft.Masquerade); ok {
			j.Masqueraded = true
		}
		if e.Verdict.Kind == nft.Drop {
			j.Outcome = dropped(r)
		}
	}
	if last.GotThrough(marker) {
		j.through(last.Packet)
	}
	return j
}

// through fills in how the packet looked at the end.
func (j *PacketTrace) through(p Packet) {
	j.Outcome, j.Out = nft.Accepted.String(), p.Out
	if p.Destination != j.Destination {
		j.Endpoint = p.Destination
	}
	if p.Source != j.Source {
		j.NewSource = p.Source
	}
}

// dropped is what a rule that ends a packet's way does.
func dropped(r nft.Rule) string {
	reject, ok := r.Do.(nft.Reject)
	switch {
	case !ok:
		return nft.Dropped.String()
	case reject.TCPReset:
		return nft.Reset.String()
	}
	return nft.Unreachable.String()
}

func step(e Event, r nft.Rule, known bool) Step {
	s := Step{Family: e.Family, Table: e.Table, Chain: e.Chain, Verdict: verdictText(e.Verdict)}
	switch {
	case e.Kind == PolicyEvent:
		s.Rule = "policy"
	case e.Kind == ReturnEvent:
		s.Rule = "end of chain"
	case known:
		s.Rule = r.Text(familyOf(e))
	case s.Ours():
		s.Rule = "a rule that is gone"
	}
	return s
}

func verdictText(v nft.Verdict) string {
	if v.Kind == 0 {
		return "continue"
	}
	return strings.TrimSpace(v.String())
}

// familyOf is the family of an event in one of our tables.
func familyOf(e Event) nft.Family {
	if e.Family == nft.IPv6.String() {
		return nft.IPv6
	}
	return nft.IPv4
}
