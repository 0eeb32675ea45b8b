package trace

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"nfproxy/nft"
)

// Print writes the packet trace as text: the packet, one line for each step, and the outcome.
func (p PacketTrace) Print(w io.Writer) error {
	from := "sent by this node"
	if p.In != "" {
		from = "received on " + p.In
	}
	service := p.Service
	if service == "" {
		service = "no Service"
	}
	fmt.Fprintf(w, "%s > %s/%s, %s: %s\n", p.Source, p.Destination, p.Protocol, from, service)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range p.Steps {
		fmt.Fprintf(t, "  %s %s\t%s\t%s\n", s.Family, s.Table, s.Chain, s.text())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "  = %s\n\n", p.outcomeText())
	return err
}

func (p PacketTrace) outcomeText() string {
	if p.Why == "" {
		return p.endText()
	}
	return p.endText() + "; " + string(p.Why)
}

// endText describes the end of the packet without the reason.
func (p PacketTrace) endText() string {
	switch p.Outcome {
	case nft.Accepted.String():
		return p.destinationText() + ", " + p.sourceText()
	case Unknown:
		return "outcome unknown: the packet was dropped outside nftables, or a program holds it in a queue"
	case nft.Reset.String():
		return "refused with a TCP reset in " + p.lastChain()
	case nft.Unreachable.String():
		return "refused with ICMP port unreachable in " + p.lastChain()
	}
	return p.Outcome + " in " + p.lastChain()
}

func (p PacketTrace) destinationText() string {
	text := "not translated"
	if p.Endpoint.IsValid() {
		text = "to " + p.Endpoint.String()
	}
	if p.Out != "" {
		text += ", sent on " + p.Out
	}
	return text
}

func (p PacketTrace) sourceText() string {
	switch {
	case p.Masqueraded && p.NewSource.IsValid():
		return "masqueraded as " + p.NewSource.String()
	case p.Masqueraded:
		return "masqueraded, source unchanged"
	case p.NewSource.IsValid():
		return "source translated to " + p.NewSource.String() + " by another program"
	}
	return "source unchanged"
}

// lastChain names the chain of the last step.
func (p PacketTrace) lastChain() string {
	s := p.Steps[len(p.Steps)-1]
	return fmt.Sprintf("%s %s %s", s.Family, s.Table, s.Chain)
}

// text is the rule and its verdict. It is the verdict alone if no rule is known, and the rule alone if that ends with the
// verdict.
func (s Step) text() string {
	switch {
	case s.Rule == "":
		return s.Verdict
	case strings.HasSuffix(s.Rule, s.Verdict):
		return s.Rule
	}
	return s.Rule + ": " + s.Verdict
}
