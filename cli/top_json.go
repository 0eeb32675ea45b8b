package cli

// topResult is what top prints with -o json.
type topResult struct {
	Rows []topLine `json:"rows"`
}

// topLine is a topRow in JSON.
type topLine struct {
	Service     string   `json:"service"`
	Endpoint    string   `json:"endpoint,omitempty"`
	Kinds       []string `json:"kinds"`
	Connections float64  `json:"connectionsPerSecond"`
	Refused     float64  `json:"refusedPerSecond"`
	Dropped     float64  `json:"droppedPerSecond"`
	Total       uint64   `json:"total"`
}

// rate is the sum of all rates, by which lines are sorted.
func (l topLine) rate() float64 { return l.Connections + l.Refused + l.Dropped }

// linesOf returns rows as lines.
func linesOf(rows []topRow) []topLine {
	lines := []topLine{}
	for _, r := range rows {
		lines = append(lines, topLine{r.service, r.endpoint, r.kinds, r.connections, r.refused, r.dropped, r.total})
	}
	return lines
}

// rowsOf returns lines as rows.
func rowsOf(lines []topLine) []topRow {
	var rows []topRow
	for _, l := range lines {
		rows = append(rows, topRow{service: l.Service, endpoint: l.Endpoint, kinds: l.Kinds, connections: l.Connections,
			refused: l.Refused, dropped: l.Dropped, total: l.Total})
	}
	return rows
}
