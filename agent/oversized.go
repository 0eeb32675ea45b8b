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
	limit := cmp.Or(u.Node.MaxServiceElements, render.DefaultMaxServiceElements)
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
			if log, ok := lines.About(s.String(), reasonTooLarge); ok {
				log.Warn("a Service is too large", "object", "Service "+s.String(), "elements", fmt.Sprintf("more than %d", limit), "effect", s.Excess)
			}
			events.warn(s.ServiceName, reasonTooLarge, fmt.Sprintf("it needs more than the %d elements that one Service may have: %s", limit, s.Excess))
		}
	}
}
