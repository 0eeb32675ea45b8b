package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"nfproxy/report"
)

// topTable prints one line for each row.
func topTable(w io.Writer, rows []topRow, byEndpoint bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if byEndpoint {
		fmt.Fprintln(t, "SERVICE\tENDPOINT\tKIND\tCONNECTIONS/S\tTOTAL")
	} else {
		fmt.Fprintln(t, "SERVICE\tKIND\tCONNECTIONS/S\tREFUSED/S\tDROPPED/S\tTOTAL")
	}
	for _, r := range rows {
		service, kinds := report.Printable(r.service), report.Printable(strings.Join(r.kinds, ","))
		if byEndpoint {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\n", service, report.Printable(r.endpoint), kinds, perSecond(r.connections), r.total)
		} else {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\n", service, kinds, perSecond(r.connections), perSecond(r.refused),
				perSecond(r.dropped), r.total)
		}
	}
	return t.Flush()
}

// perSecond formats a rate, as a dash if there is none yet.
func perSecond(rate float64) string {
	if math.IsNaN(rate) {
		return "-"
	}
	return fmt.Sprintf("%.1f", rate)
}
