package agent

import (
	"log/slog"
	"testing"

	"nfproxy/logtest"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// TestIgnoredAnnotations: an annotation that is ignored is counted while it is there. It is sent as an Event once, and logged once unless
// the source has logged it.
func TestIgnoredAnnotations(t *testing.T) {
	var i ignoredAnnotations
	log, api := new(logtest.Buffer), newAPITest(t, 3)
	lines := ratelimit.NewLog(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: withoutTime})), ratelimit.Burst)
	events := api.events(t, slog.New(slog.DiscardHandler))
	wrong := render.IgnoredAnnotation{Object: "EndpointSlice ns/a-1", Field: "metadata.annotations[nfproxy.io/weight]", Detail: "wrong"}
	service := func(hashing render.Hashing, ignored ...render.IgnoredAnnotation) render.Service {
		s := testService("a", "10.96.0.1:80", "10.244.1.2:80", "10.244.1.3:80", "10.244.1.4:80", "10.244.1.5:80")
		s.Hashing, s.Ignored = hashing, ignored
		return s
	}
	for step, s := range []struct {
		services []render.Service
		removed  []render.ServiceName
		count    int
		events   int // so far
		log      string
	}{
		{services: []render.Service{service(render.NoHashing)}},
		{services: []render.Service{service(render.NoHashing, wrong)}, count: 1, events: 1},
		{services: []render.Service{service(render.NoHashing, wrong)}, count: 1, events: 1},
		{services: []render.Service{service(render.HashClients, wrong)}, count: 2, events: 2,
			log: `level=WARN msg="an annotation of a Service is ignored" object="Service ns/a" field=metadata.annotations[nfproxy.io/lb-algorithm] ` +
				`detail="port \"p\" has more endpoints of a family than --maglev-table-size has slots, 3; they are chosen at random"` + "\n"},
		{services: []render.Service{service(render.HashClients)}, count: 1, events: 2},
		{services: []render.Service{service(render.NoHashing)}, events: 2},
		{services: []render.Service{service(render.NoHashing, wrong)}, count: 1, events: 3},
		{removed: []render.ServiceName{{Namespace: "ns", Name: "a"}}, events: 3},
	} {
		before := len(log.String())
		i.take(render.Update{Node: render.Node{MaglevSize: 3}, Services: s.services, Removed: s.removed}, lines, events)
		if got := log.String()[before:]; got != s.log || i.count != s.count {
			t.Errorf("step %d: %d annotations, want %d; log\n%s\nwant\n%s", step, i.count, s.count, got, s.log)
		}
		within(t, "the Events are written", func() bool {
			return api.count("POST events")+api.count("PATCH events")+api.count("PUT events") == s.events
		})
	}
	if len(i.of) != 0 {
		t.Errorf("%v is left", i.of)
	}
}
