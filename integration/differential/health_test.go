package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// healthTarget is an HTTP server of a proxy.
type healthTarget struct {
	place   string
	at      netip.AddrPort
	path    string
	service string // whose health check node port it is
}

func (h healthTarget) String() string {
	return fmt.Sprintf("GET http://%s%s from %s", h.at, h.path, h.place)
}

// healthTargets returns the servers of a state: /healthz, and the health check node port of each Service, at every address.
func healthTargets(s state) []healthTarget {
	all := []healthTarget{{"node", netip.MustParseAddrPort("127.0.0.1:10256"), "/healthz", ""}, {"node", netip.MustParseAddrPort("127.0.0.1:10256"), "/livez", ""}}
	for _, v := range s.services {
		if port := v.Spec.HealthCheckNodePort; port != 0 {
			for _, a := range nodeAddrs {
				all = append(all, healthTarget{"outside", netip.AddrPortFrom(a, uint16(port)), "/", v.Name})
			}
		}
	}
	return all
}

var timestamps = regexp.MustCompile(`"[0-9]{4}-[0-9]{2}-[0-9]{2}[^"]*"`)

// get returns the status, the weight for load balancers and the body of a response, without timestamps.
func get(n *node, h healthTarget) string {
	p := n.place(h.place)
	source := ""
	if a := p.sources[index(h.at.Addr())].addr; a.IsValid() {
		source = netip.AddrPortFrom(a, 0).String()
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.ns.Dial(ctx, network, source, addr)
		}}}
	response, err := client.Get("http://" + h.at.String() + h.path)
	if errors.Is(err, unix.ECONNREFUSED) {
		return refused
	}
	if err != nil {
		return "no response"
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return fmt.Sprintf("%d weight %q %s", response.StatusCode, response.Header.Get("X-Load-Balancing-Endpoint-Weight"), timestamps.ReplaceAll(body, []byte("TIME")))
}

// compareHealth compares the answers of the proxies' HTTP servers.
func (a *arena) compareHealth(s state, count *tally) ([]difference, error) {
	questions := healthTargets(s)
	count.healthChecks += len(questions)
	var found []difference
	for i := range 8 {
		time.Sleep(time.Duration(i) * 100 * time.Millisecond)
		found = nil
		var again []healthTarget
		for _, h := range questions {
			if k, n := get(a.kubeProxy.node, h), get(a.nfproxy.node, h); k != n {
				found = append(found, difference{kind: answered, what: h.String(), service: h.service, kubeProxy: k, nfproxy: n})
				again = append(again, h)
			}
		}
		if found = a.unexpected(found); len(found) == 0 {
			return nil, nil
		}
		if questions = again; len(again) == 0 {
			return nil, nil
		}
	}
	return found, nil
}
