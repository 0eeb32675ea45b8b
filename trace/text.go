package trace

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"nfproxy/nft"
)

// Print writes a journey for people: what came, a line for each step, what became of it.
func (j PacketTrace) Print(w io.Writer) error {
	from := "from this machine"
	if j.In != "" {
		from = "in by " + j.In
	}
	service := j.Service
	if service == "" {
		service = "no Service's"
	}
	fmt.Fprintf(w, "%s > %s/%s, %s: %s\n", j.Source, j.Destination, j.Protocol, from, service)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range j.Steps {
		fmt.Fprintf(t, "  %s %s\t%s\t%s\n", s.Family, s.Table, s.Chain, s.text())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "  = %s\n\n", j.end())
	return err
}

// end says what became of the packet.
func (j PacketTrace) end() string {
	switch j.Outcome {
	case nft.Accepted.String():
		return j.where() + ", " + j.source()
	case Unknown:
		return "nothing more was heard of it: it was dropped outside of nftables, or waits in a queue"
	case nft.Reset.String():
		return "refused with a TCP reset by " + j.by()
	case nft.Unreachable.String():
		return "refused with ICMP port unreachable by " + j.by()
	}
	return j.Outcome + " by " + j.by()
}

func (j PacketTrace) where() string {
	text := "not translated"
	if j.Endpoint.IsValid() {
		text = "to " + j.Endpoint.String()
	}
	if j.Out != "" {
		text += ", out by " + j.Out
	}
	return text
}

func (j PacketTrace) source() string {
	switch {
	case j.Masqueraded && j.NewSource.IsValid():
		return "masqueraded as " + j.NewSource.String()
	case j.Masqueraded:
		return "masqueraded, which left its source as it was"
	case j.NewSource.IsValid():
		return "its source replaced by " + j.NewSource.String() + ", not by nfproxy"
	}
	return "its source kept"
}

// by is where the last step was.
func (j PacketTrace) by() string {
	s := j.Steps[len(j.Steps)-1]
	return fmt.Sprintf("%s %s %s", s.Family, s.Table, s.Chain)
}

// text is the rule and its verdict, which is the verdict alone where there is no rule to name and where the rule says it.
func (s Step) text() string {
	switch {
	case s.Rule == "":
		return s.Verdict
	case strings.HasSuffix(s.Rule, s.Verdict):
		return s.Rule
	}
	return s.Rule + ": " + s.Verdict
}
