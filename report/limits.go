package report

import (
	"fmt"

	"nfproxy/nft"
	"nfproxy/render"
)

// Limits are the limits of a frontend on new connections.
type Limits struct {
	// Rate limits all clients together, ClientRate each client. They have the form "100/second burst 100".
	Rate       string `json:"rate,omitempty"`
	ClientRate string `json:"clientRate,omitempty"`
	// Over is "refuse" or "drop": what happens to connections that exceed a limit. Exceeded counts them.
	Over     string  `json:"over"`
	Exceeded *uint64 `json:"exceeded,omitempty"`
}

// describeLimits returns the limits that a verdict for a frontend leads to, and the verdict within them. Without limits it returns nil
// and the verdict itself.
func describeLimits(t *nft.Table, frontend nft.Value, v nft.Verdict) (*Limits, nft.Verdict) {
	client, ok := render.ClientLimitOf(v)
	if !ok {
		return nil, v
	}
	sc := render.SchemaOf(t.Family)
	over := find(t, sc.OverLimit, frontend)
	l := &Limits{Rate: limitText(find(t, sc.Rates, frontend).Data.Limit()), ClientRate: limitText(client), Over: describeAction(over.Data.Verdict())}
	if over.Counter != nil {
		l.Exceeded = &over.Counter.Packets
	}
	return l, find(t, sc.WithinLimit, frontend).Data.Verdict()
}

// exceeded returns the number of connections that exceeded a limit, 0 if it is unknown.
func (l *Limits) exceeded() uint64 {
	if l == nil || l.Exceeded == nil {
		return 0
	}
	return *l.Exceeded
}

// String describes the limits in one line, such as "at most 100/second burst 100 and 10/second burst 20 of each client".
func (l *Limits) String() string {
	switch {
	case l.ClientRate == "":
		return "at most " + l.Rate
	case l.Rate == "":
		return fmt.Sprintf("at most %s of each client", l.ClientRate)
	}
	return fmt.Sprintf("at most %s and %s of each client", l.Rate, l.ClientRate)
}

// terms returns the limits and what happens above them, without the counter. It returns "" without limits.
func (l *Limits) terms() string {
	if l == nil {
		return ""
	}
	return l.String() + ", above: " + l.Over
}

// limitText describes a limit, the zero Limit as "".
func limitText(l nft.Limit) string {
	if l == (nft.Limit{}) {
		return ""
	}
	return fmt.Sprintf("%d/%s burst %d", l.Packets, l.Unit(), l.Burst)
}
