package metrics

import (
	"errors"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"nfproxy/render"
	"nfproxy/report"
)

// testDescription returns a Service with counters.
func testDescription() report.Description {
	n := func(n uint64) *uint64 { return &n }
	endpoint := func(addr string, connections uint64) report.Endpoint {
		return report.Endpoint{Address: netip.MustParseAddr(addr), Port: 8080, Connections: n(connections)}
	}
	local := []report.Endpoint{endpoint("10.0.0.1", 2)}
	return report.Description{Services: []report.ServicePort{{Namespace: "default", Name: "web", Port: "http", Protocol: "TCP",
		Frontends: []report.Frontend{
			{Kind: render.ClusterIP, Action: "balance", Connections: n(10), Endpoints: []report.Endpoint{endpoint("10.0.0.1", 6), endpoint("10.0.0.2", 4)}},
			{Kind: render.ClusterIP, Action: "refuse", Connections: n(3)}, // the other family
			{Kind: render.NodePort, Action: "balance", Connections: n(7), Dropped: n(4),
				Endpoints: []report.Endpoint{endpoint("10.0.0.1", 1)}, LocalEndpoints: &local},
			{Kind: render.ExternalIP, Action: "drop", Connections: n(5)},
		}}, {Namespace: "default", Name: "limited", Protocol: "UDP", Frontends: []report.Frontend{
		{Kind: render.ClusterIP, Action: "balance", Connections: n(20), Limits: &report.Limits{Over: "refuse", Exceeded: n(8)}},
		{Kind: render.NodePort, Action: "balance", Connections: n(9), Limits: &report.Limits{Over: "drop", Exceeded: n(9)}},
	}}}}
}

// TestConnections: connections are counted as served, refused or dropped, by Service port and kind, and by endpoint.
func TestConnections(t *testing.T) {
	m := New("v1.2.3")
	m.CountConnections(render.CountEndpoints, func() (report.Description, error) { return testDescription(), nil })
	s := scrape(t, m)
	const port = `namespace="default",port="http",protocol="TCP",service="web"`
	const limited = `namespace="default",port="",protocol="UDP",service="limited"`
	for name, want := range map[string]float64{
		`nfproxy_service_connections_total{kind="ClusterIP",` + port + `}`:                           10,
		`nfproxy_service_refused_connections_total{kind="ClusterIP",` + port + `}`:                   3,
		`nfproxy_service_dropped_connections_total{kind="ClusterIP",` + port + `}`:                   0,
		`nfproxy_service_connections_total{kind="NodePort",` + port + `}`:                            3,
		`nfproxy_service_dropped_connections_total{kind="NodePort",` + port + `}`:                    4,
		`nfproxy_service_dropped_connections_total{kind="ExternalIP",` + port + `}`:                  5,
		`nfproxy_service_connections_total{kind="ClusterIP",` + limited + `}`:                        12,
		`nfproxy_service_refused_connections_total{kind="ClusterIP",` + limited + `}`:                8,
		`nfproxy_service_over_limit_connections_total{kind="ClusterIP",` + limited + `}`:             8,
		`nfproxy_service_dropped_connections_total{kind="NodePort",` + limited + `}`:                 9,
		`nfproxy_service_over_limit_connections_total{kind="NodePort",` + limited + `}`:              9,
		`nfproxy_endpoint_connections_total{endpoint="10.0.0.1:8080",kind="ClusterIP",` + port + `}`: 6,
		`nfproxy_endpoint_connections_total{endpoint="10.0.0.1:8080",kind="NodePort",` + port + `}`:  3,
	} {
		if got, ok := s.samples[name]; !ok || got != want {
			t.Errorf("%s is %v (present: %t), want %v", name, got, ok, want)
		}
	}
	if _, ok := s.samples[`nfproxy_service_over_limit_connections_total{kind="ClusterIP",`+port+`}`]; ok {
		t.Error("a Service without limits has a counter of connections above them")
	}
}

// TestConnectionsUnreadable: if the counters cannot be read, their metrics are absent, not 0, and all others are present.
func TestConnectionsUnreadable(t *testing.T) {
	m := New("v1.2.3")
	m.CountConnections(render.CountServices, func() (report.Description, error) { return report.Description{}, errors.New("no kernel") })
	response := httptest.NewRecorder()
	m.Handler(slog.New(slog.DiscardHandler)).ServeHTTP(response, httptest.NewRequest("GET", "/metrics", nil))
	text := response.Body.String()
	if response.Code != 200 || strings.Contains(text, "nfproxy_service_connections_total") || !strings.Contains(text, "nfproxy_build_info") {
		t.Errorf("%d\n%s", response.Code, text)
	}
}
