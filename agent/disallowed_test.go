package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// TestDisallowedAddresses: addresses that are not served are reported once for each Service and field, and again when they change;
// the rest of the Service is served.
func TestDisallowedAddresses(t *testing.T) {
	d := startDaemon(t)
	node := render.Node{Name: "n", ExternalIPs: render.Allowlist{Only: true, Within: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}}
	web := testService("web", "10.96.0.1:80", "10.0.0.1:80")
	for _, a := range []string{"203.0.113.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3", "192.0.2.4"} {
		web.ExternalIPs = append(web.ExternalIPs, netip.MustParseAddr(a))
	}
	told := func(text string, times int) {
		t.Helper()
		if log := d.log.String(); strings.Count(log, text) != times {
			t.Errorf("%q is not there %d times:\n%s", text, times, log)
		}
	}
	send := func(s render.Service) {
		d.updates <- render.Update{Node: node, Services: []render.Service{s}, Seen: time.Now()}
	}
	const warning = `msg="a Service names addresses that this node is set not to serve" object="Service ns/web" field=spec.externalIPs addresses=`
	send(web)
	d.until("203.0.113.1 . tcp . 80", true)
	d.until("10.96.0.1 . tcp . 80", true)
	if text := d.text(); strings.Contains(text, "192.0.2.") || strings.Contains(text, "2001:db8::1") {
		t.Errorf("disallowed addresses are served:\n%s", text)
	}
	told(warning+`"192.0.2.1, 192.0.2.2, 2001:db8::1, 2 more"`, 1)
	web.Ports[0].Endpoints = nil
	send(web)
	d.until("goto refuse", true)
	told(warning, 1)
	web.ExternalIPs = web.ExternalIPs[:2]
	send(web)
	send(web)
	send(testService("last", "10.96.0.2:80"))
	d.until("ns/last:p", true)
	told(warning+"192.0.2.1\n", 1)
	told(warning, 2)
}

// TestDisallowedCount: the number of disallowed addresses follows the Services.
func TestDisallowedCount(t *testing.T) {
	var r disallowedAddresses
	node := render.Node{LoadBalancerIPs: render.Allowlist{Only: true}, ExternalIPs: render.Allowlist{Only: true}}
	service := func(name string, addresses int) render.Service {
		s := testService(name, "10.96.0.1:80")
		for i := range addresses {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}))
		}
		if addresses > 0 {
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}
		return s
	}
	for _, step := range []struct {
		update render.Update
		want   int
	}{
		{render.Update{Services: []render.Service{service("a", 2), service("b", 1), service("c", 0)}}, 5},
		{render.Update{Services: []render.Service{service("a", 1)}}, 4},
		{render.Update{Services: []render.Service{service("b", 0)}}, 2},
		{render.Update{Removed: []render.ServiceName{{Namespace: "ns", Name: "a"}, {Namespace: "ns", Name: "c"}}}, 0},
	} {
		step.update.Node = node
		if r.take(step.update, ratelimit.NewLog(slog.New(slog.DiscardHandler), ratelimit.Burst), nil); r.count != step.want {
			t.Errorf("%d addresses, not %d", r.count, step.want)
		}
	}
	if len(r.of) > 0 {
		t.Errorf("left over: %v", r.of)
	}
}

// TestManyConflicts: a thousand conflicts between two Services do not fill the log.
func TestManyConflicts(t *testing.T) {
	d := startDaemon(t)
	a, b := testService("a", "10.96.0.1:80"), testService("b", "10.96.0.1:80")
	for i := range 1000 {
		p := render.Port{Name: fmt.Sprint("p", i), Protocol: nft.UDP, Port: uint16(i + 1)}
		a.Ports, b.Ports = append(a.Ports, p), append(b.Ports, p)
	}
	d.send(a, b)
	d.until("ns/a:p999", true)
	log := d.log.String()
	if n := strings.Count(log, "msg=conflict "); n != maxConflicts || !strings.Contains(log, `msg="more conflicts" owner=ns/a refused=ns/b frontends=996`) {
		t.Errorf("%d conflicts are reported:\n%s", n, log)
	}
}
