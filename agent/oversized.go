package agent

import (
	"cmp"
	"fmt"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// oversizedServices holds the Services that cost more elements than one Service may, so that only a part of them is served. The
// zero value is empty and ready to use.
type oversizedServices struct {
	of map[render.ServiceName]render.Excess
}

// take applies an Update and reports what is new: once for each Service, and again when another part of it is served.
func (o *oversizedServices) take(u render.Update, lines *ratelimit.Log, events *events) {
	for _, name := range u.Removed {
		delete(o.of, name)
	}
	for _, s := range u.Services {
		had := o.of[s.ServiceName]
		switch {
		case s.Excess == had:
		case s.Excess == render.NoExcess:
			delete(o.of, s.ServiceName)
			if log, ok := lines.About(s.String(), reasonTooLarge); ok {
				log.Info("a Service is no longer too large", "object", "Service "+s.String())
			}
		default:
			if o.of == nil {
				o.of = make(map[render.ServiceName]render.Excess)
			}
			o.of[s.ServiceName] = s.Excess
			elements, message := exceeded(u.Node, s.Excess)
			if log, ok := lines.About(s.String(), reasonTooLarge); ok {
				log.Warn("a Service is too large", "object", "Service "+s.String(), "elements", elements, "effect", s.Excess)
			}
			events.warn(s.ServiceName, reasonTooLarge, message)
		}
	}
}

// exceeded describes the bound that a Service exceeds, or that all Services together exceed, for the log and for an Event.
func exceeded(n render.Node, e render.Excess) (elements, message string) {
	if e == render.WithoutRoom {
		limit := cmp.Or(n.MaxElements, render.DefaultMaxElements)
		return fmt.Sprintf("more than %d together with all other Services", limit),
			fmt.Sprintf("all Services together need more than the %d elements that this node may have: %s", limit, e)
	}
	limit := cmp.Or(n.MaxServiceElements, render.DefaultMaxServiceElements)
	return fmt.Sprintf("more than %d", limit), fmt.Sprintf("it needs more than the %d elements that one Service may have: %s", limit, e)
}
