package agent

import (
	"slices"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// ignoredAnnotations holds the annotations of Services and their EndpointSlices that are ignored. The zero value is empty and ready to use.
type ignoredAnnotations struct {
	of    map[render.ServiceName][]render.IgnoredAnnotation
	count int
}

// take applies an Update and reports what is new: as an Event, and in the log what the source has not logged.
func (i *ignoredAnnotations) take(u render.Update, lines *ratelimit.Log, events *events) {
	for _, name := range u.Removed {
		i.set(name, nil)
	}
	for _, s := range u.Services {
		had, now := i.of[s.ServiceName], render.IgnoredAnnotationsOf(u.Node, s)
		i.set(s.ServiceName, now)
		for _, a := range now {
			if slices.Contains(had, a) {
				continue
			}
			events.warn(s.ServiceName, reasonAnnotation, a.String())
			if slices.Contains(s.Ignored, a) {
				continue
			}
			if log, ok := lines.About(s.String(), reasonAnnotation); ok {
				log.Warn("an annotation of a Service is ignored", "object", a.Object, "field", a.Field, "detail", a.Detail)
			}
		}
	}
}

// set replaces the ignored annotations of a Service.
func (i *ignoredAnnotations) set(name render.ServiceName, now []render.IgnoredAnnotation) {
	had := i.of[name]
	if len(had)+len(now) == 0 {
		return
	}
	if i.of == nil {
		i.of = make(map[render.ServiceName][]render.IgnoredAnnotation)
	}
	i.count += len(now) - len(had)
	if i.of[name] = now; len(now) == 0 {
		delete(i.of, name)
	}
}
