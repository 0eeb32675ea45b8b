package agent

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/logtest"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// TestOversizedReports: a Service that is too large is reported once, however often it changes, and again when another part of it
// is served. The count follows the Services.
func TestOversizedReports(t *testing.T) {
	var o oversizedServices
	log := new(logtest.Buffer)
	lines := ratelimit.NewLog(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: withoutTime})), ratelimit.Burst)
	service := func(name string, e render.Excess) render.Service {
		s := testService(name, "10.96.0.1:80")
		s.Excess = e
		return s
	}
	for i, step := range []struct {
		update render.Update
		count  int
		log    string // of this step
	}{
		{render.Update{Services: []render.Service{service("a", render.NoExcess)}}, 0, ""},
		{render.Update{Services: []render.Service{service("a", render.WithoutAddresses), service("b", render.WithoutPorts)}}, 2,
			`level=WARN msg="a Service is too large" object="Service ns/a" elements="more than 100000" effect="its external IPs and load balancer addresses are not served; its cluster IPs and node ports are"` + "\n" +
				`level=WARN msg="a Service is too large" object="Service ns/b" elements="more than 100000" effect="nothing of it is served; its cluster IPs refuse connections"` + "\n"},
		{render.Update{Services: []render.Service{service("a", render.WithoutAddresses), service("b", render.WithoutPorts)}}, 2, ""},
		{render.Update{Node: render.Node{MaxServiceElements: 7}, Services: []render.Service{service("a", render.WithoutPorts)}}, 2,
			`level=WARN msg="a Service is too large" object="Service ns/a" elements="more than 7" effect="nothing of it is served; its cluster IPs refuse connections"` + "\n"},
		{render.Update{Node: render.Node{MaxElements: 9}, Services: []render.Service{service("a", render.WithoutRoom)}}, 2,
			`level=WARN msg="a Service is too large" object="Service ns/a" elements="more than 9 together with all other Services" effect="nothing of it is served, because all Services together need too many elements; its cluster IPs refuse connections"` + "\n"},
		{render.Update{Services: []render.Service{service("a", render.NoExcess)}, Removed: []render.ServiceName{{Namespace: "ns", Name: "b"}}}, 0,
			`level=INFO msg="a Service is no longer too large" object="Service ns/a"` + "\n"},
	} {
		before := len(log.String())
		o.take(step.update, lines, nil)
		if got := log.String()[before:]; got != step.log {
			t.Errorf("step %d: log\n%s\nwant\n%s", i, got, step.log)
		}
		if len(o.of) != step.count {
			t.Errorf("step %d: %d Services, want %d", i, len(o.of), step.count)
		}
	}
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// TestServiceGrowsBeyondBound: when a Service grows beyond the bound, its rules in the kernel go at once, and the rest is served;
// other Services are programmed as ever. When it shrinks, all of it is served again.
func TestServiceGrowsBeyondBound(t *testing.T) {
	d := startDaemon(t)
	node := render.Node{Name: "n", MaxServiceElements: 6}
	send := func(services ...render.Service) {
		u := render.Update{Node: node, Seen: time.Now()}
		for _, s := range services {
			u.Services = append(u.Services, render.Bound(node, s))
		}
		d.updates <- u
	}
	web, other := testService("web", "10.96.0.1:80", "10.0.0.1:80"), testService("other", "10.96.0.2:80", "10.0.0.2:80")
	web.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1")}
	send(web, other)
	d.until("203.0.113.1 . tcp . 80", true)

	grown := web
	grown.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}
	send(grown)
	send(testService("next", "10.96.0.3:80", "10.0.0.3:80"))
	d.until("ns/next:p", true)
	d.until("203.0.113.", false)
	for _, want := range []string{"10.96.0.1 . tcp . 80", "10.96.0.2 . tcp . 80"} {
		d.until(want, true)
	}
	send(testService("web", "10.96.0.1:80", "10.0.1.1:80", "10.0.1.2:80", "10.0.1.3:80", "10.0.1.4:80", "10.0.1.5:80", "10.0.1.6:80"))
	d.until("10.96.0.1 . tcp . 80", false)
	d.until("10.96.0.1", true) // in cluster-ips: refused
	send(web)
	d.until("203.0.113.1 . tcp . 80", true)
	if log := d.log.String(); strings.Count(log, "a Service is too large") != 2 || strings.Count(log, "a Service is no longer too large") != 1 {
		t.Error(log)
	}
}
