package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// reports writes to the log, and as Events to the API, what people should know about their Services.
type reports struct {
	log        *slog.Logger
	lines      *ratelimit.Log // of what a Service can cause at any rate
	events     *events
	disallowed disallowedAddresses
	oversized  oversizedServices
	ignored    ignoredAnnotations
	counted    func(addresses, oversized, annotations int)
}

// newReports returns reports to a log and as Events. counted is told how many addresses are not served, how many Services are too
// large, and how many annotations are ignored.
func newReports(log *slog.Logger, events *events, counted func(addresses, oversized, annotations int)) *reports {
	return &reports{log: log, lines: ratelimit.NewLog(log, ratelimit.Burst), events: events, counted: counted}
}

// observer returns the observer that reports what the daemon does.
func (r *reports) observer() observer {
	return observer{updated: r.updated, conflicted: r.conflicted, quarantined: r.quarantined}
}

// updated reports addresses that are not served, Services that are too large and annotations that are ignored, and for debugging the
// endpoints that were selected.
func (r *reports) updated(u render.Update) {
	r.disallowed.take(u, r.lines, r.events)
	r.oversized.take(u, r.lines, r.events)
	r.ignored.take(u, r.lines, r.events)
	r.counted(r.disallowed.count, len(r.oversized.of), r.ignored.count)
	if !r.log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	for _, name := range u.Removed {
		r.log.Debug("Service removed", "service", name)
	}
	for _, s := range u.Services {
		for _, port := range s.Ports {
			for _, addr := range s.ClusterIPs {
				selected := render.Select(u.Node, port, render.Family(addr))
				r.log.Debug("Service changed", "service", s.ServiceName, "port", port.Name, "frontend",
					netip.AddrPortFrom(addr, port.Port), "endpoints", len(selected.Cluster), "why", selected.WhyCluster)
			}
		}
	}
}

// maxConflicts is how many conflicts between two Services are reported one by one if they come together.
const maxConflicts = 5

// conflicted reports new conflicts. Two Services can have any number of them, which must not fill the log.
func (r *reports) conflicted(conflicts []render.Conflict) {
	type pair struct{ winner, loser render.ServiceName }
	reported := make(map[pair]int)
	for _, c := range conflicts {
		between := pair{c.Winner, c.Loser}
		if reported[between]++; reported[between] > maxConflicts {
			continue
		}
		if log, ok := r.lines.About(c.Loser.String(), reasonConflict); ok {
			log.Warn("conflict", "frontend", c.Address, "protocol", c.Protocol, "owner", c.Winner, "refused", c.Loser)
		}
		r.events.warn(c.Loser, reasonConflict, c.String())
	}
	for between, n := range reported {
		if n <= maxConflicts {
			continue
		}
		if log, ok := r.lines.About(between.loser.String(), "more "+reasonConflict); ok {
			log.Warn("more conflicts", "owner", between.winner, "refused", between.loser, "frontends", n-maxConflicts)
		}
	}
}

// quarantined reports a Service whose rules the kernel refused.
func (r *reports) quarantined(service render.ServiceName, refusal error, retry time.Duration) {
	if log, ok := r.lines.About(service.String(), reasonRefused); ok {
		log.Error("the kernel refuses a Service; it keeps what it had, the others go on",
			"service", service, "error", refusal, "retry", retry)
	}
	r.events.warn(service, reasonRefused, refusal.Error())
}
