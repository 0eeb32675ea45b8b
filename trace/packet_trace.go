package trace

import (
	"net/netip"
	"strings"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// PacketTrace is the way of the first packet of one connection, and its end. Its JSON form is what `nfproxy trace -o json`
// prints.
type PacketTrace struct {
	// Service is the Service port of the packet's destination, "namespace/name:port"; empty if there is none.
	Service     string         `json:"service,omitempty"`
	Protocol    string         `json:"protocol"`
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// In and Out are the incoming and outgoing interfaces. In is empty for a packet of this machine, Out for a packet
	// that is delivered to it.
	In    string `json:"in,omitempty"`
	Out   string `json:"out,omitempty"`
	Steps []Step `json:"steps"`
	// Outcome is that of nft.Simulate, accepted, dropped, reset or unreachable; or Unknown.
	Outcome string `json:"outcome"`
	// Endpoint is the translated destination, invalid if the destination was not translated.
	Endpoint netip.AddrPort `json:"endpoint,omitzero"`
	// Why is the reason for the endpoint if a rule chose it by a hash, or for the end of a connection above a limit, and empty
	// otherwise.
	Why render.Reason `json:"why,omitempty"`
	// NewSource is the translated source, whichever program translated it. Masqueraded reports whether a rule of nfproxy
	// did.
	Masqueraded bool           `json:"masqueraded"`
	NewSource   netip.AddrPort `json:"newSource,omitzero"`
}

// Unknown is the outcome of a packet whose last event did not arrive: it was dropped outside nftables, or a program holds
// it in a queue.
const Unknown = "unknown"

// Step is a rule that matched, or the verdict at the end of a chain.
type Step struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	// Rule is the rule in nft's syntax if it is nfproxy's, "policy" or "end of chain" for an event without a rule, and
	// empty for a rule of another program.
	Rule    string `json:"rule,omitempty"`
	Verdict string `json:"verdict"`
}

// Ours reports whether the step is in one of the tables of an nfproxy, whatever its service proxy name.
func (s Step) Ours() bool {
	_, err := render.InstanceOf(s.Table)
	return err == nil && (s.Family == "ip" || s.Family == "ip6")
}

// ruleOf finds the rule of an event by its handle. It returns false for rules of other programs and for rules deleted
// before they could be read.
type ruleOf func(e Event) (nft.Rule, bool)

// newPacketTrace returns the trace of the packet whose events these are; tracer is the name of the tracer's table.
func newPacketTrace(events []Event, tracer string, rule ruleOf) PacketTrace {
	first, last := events[0], events[len(events)-1]
	p := PacketTrace{Protocol: first.Packet.Protocol.String(), Source: first.Packet.Source, Destination: first.Packet.Destination,
		In: first.Packet.In, Steps: []Step{}, Outcome: Unknown}
	for _, e := range events {
		if strings.HasPrefix(e.Table, TablePrefix) {
			continue
		}
		r, known := rule(e)
		p.Steps = append(p.Steps, newStep(e, r, known))
		switch do := r.Do.(type) {
		case nft.Masquerade:
			p.Masqueraded = true
		case nft.DNAT:
			p.Why = hashedBy(do)
		case nft.VerdictMap:
			if render.LeadsOverLimit(do.Map) {
				p.Why = report.ExceedsLimit
			}
		}
		if e.Verdict.Kind == nft.Drop {
			p.Outcome = dropOutcome(r)
		}
	}
	if last.Passed(tracer) {
		p.accept(last.Packet)
	}
	return p
}

// hashedBy returns the reason for the endpoint of a rule that chooses it by a hash, and an empty reason for other rules.
func hashedBy(do nft.DNAT) render.Reason {
	for _, f := range do.Key {
		switch f.Kind {
		case nft.ClientHash:
			return report.ClientHashed
		case nft.ConnectionHash:
			return report.ConnectionHashed
		}
	}
	return ""
}

// accept sets the outcome of a packet that passed all chains and then looked like last.
func (p *PacketTrace) accept(last Packet) {
	p.Outcome, p.Out = nft.Accepted.String(), last.Out
	if last.Destination != p.Destination {
		p.Endpoint = last.Destination
	}
	if last.Source != p.Source {
		p.NewSource = last.Source
	}
}

// dropOutcome is the outcome of a packet that the rule drops or rejects.
func dropOutcome(r nft.Rule) string {
	reject, ok := r.Do.(nft.Reject)
	switch {
	case !ok:
		return nft.Dropped.String()
	case reject.TCPReset:
		return nft.Reset.String()
	}
	return nft.Unreachable.String()
}

func newStep(e Event, r nft.Rule, known bool) Step {
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

// familyOf is the family of an event in one of nfproxy's tables.
func familyOf(e Event) nft.Family {
	if e.Family == nft.IPv6.String() {
		return nft.IPv6
	}
	return nft.IPv4
}
