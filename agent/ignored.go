package agent

import (
	"slices"

	"nfproxy/ratelimit"
	"nfproxy/render"
)

// ignoredAnnotations holds the annotations of Services and their EndpointSlices that are ignored. The zero value is empty and ready to use.
type ignoredAnnotations struct {
	of    findings[render.IgnoredAnnotation]
	count int
}

// take applies an Update and reports what is new: as an Event, and in the log what the source has not logged.
func (i *ignoredAnnotations) take(u render.Update, lines *ratelimit.Log, events *events) {
	for _, name := range u.Removed {
		i.set(name, nil)
	}
	for _, s := range u.Services {
		now := render.IgnoredAnnotationsOf(u.Node, s)
		had := i.set(s.ServiceName, now)
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

// set replaces the ignored annotations of a Service and returns those that it had.
func (i *ignoredAnnotations) set(name render.ServiceName, now []render.IgnoredAnnotation) (had []render.IgnoredAnnotation) {
	had = i.of.replace(name, now)
	i.count += len(now) - len(had)
	return had
}
