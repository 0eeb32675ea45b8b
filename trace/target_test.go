package trace

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"

	"nfproxy/report"
)

func at(p nft.Protocol, text string) Destination {
	return Destination{Protocol: p, AddrPort: netip.MustParseAddrPort(text)}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]Target{
		"10.96.0.1:80":               {At: at(nft.TCP, "10.96.0.1:80")},
		"10.96.0.1:53/udp":           {At: at(nft.UDP, "10.96.0.1:53")},
		"[fd00::1]:80/sctp":          {At: at(nft.SCTP, "[fd00::1]:80")},
		"web":                        {Namespace: "default", Name: "web"},
		"web:http":                   {Namespace: "default", Name: "web", Port: "http"},
		"kube-system/kube-dns:53":    {Namespace: "kube-system", Name: "kube-dns", Port: "53"},
		"web/udp":                    {Namespace: "web", Name: "udp"},
		"10.96.0.1":                  {},
		"[fd00::1]":                  {},
		"fd00::1/64":                 {},
		"10.96.0.1:0":                {},
		"10.96.0.1:80/":              {},
		"10.96.0.1:80/icmp":          {},
		"[::ffff:10.96.0.1]:80":      {},
		"[fe80::1%eth0]:80":          {},
		"":                           {},
		"web:":                       {},
		"/web":                       {},
		"a/b/c":                      {},
		"Web":                        {},
		"default/web:http:more":      {},
		"default/web; nft flush all": {},
	} {
		got, err := ParseTarget(text)
		if got != want || (err != nil) != (want == Target{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), `"`+text) {
			t.Errorf("%q is not in the error %v", text, err)
		}
	}
}

func TestDestinations(t *testing.T) {
	frontend := func(text string) report.Frontend {
		a := netip.MustParseAddrPort(text)
		return report.Frontend{Address: a.Addr(), Port: a.Port()}
	}
	d := report.Description{Services: []report.ServicePort{
		{Namespace: "default", Name: "dns", Port: "dns", Protocol: "UDP", Frontends: []report.Frontend{frontend("10.96.0.10:53"), frontend("[fd00::10]:53")}},
		{Namespace: "default", Name: "dns", Port: "dns-tcp", Protocol: "TCP", Frontends: []report.Frontend{frontend("10.96.0.10:53")}},
		{Namespace: "other", Name: "dns", Port: "", Protocol: "UDP", Frontends: []report.Frontend{frontend("10.96.0.11:53"), frontend("192.0.2.1:30053")}},
	}}
	for text, want := range map[string]string{
		"dns":             "udp 10.96.0.10:53, udp [fd00::10]:53, tcp 10.96.0.10:53",
		"dns:dns-tcp":     "tcp 10.96.0.10:53",
		"dns:53":          "udp 10.96.0.10:53, udp [fd00::10]:53, tcp 10.96.0.10:53",
		"other/dns:30053": "udp 10.96.0.11:53, udp 192.0.2.1:30053",
		"10.96.0.10:99":   "tcp 10.96.0.10:99",
		"web":             "the tables have no Service default/web",
		"dns:54":          `the Service default/dns has no port "54"`,
	} {
		target, err := ParseTarget(text)
		if err != nil {
			t.Fatal(err)
		}
		all, err := target.Destinations(d)
		var names []string
		for _, a := range all {
			names = append(names, a.Protocol.String()+" "+a.AddrPort.String())
		}
		got := strings.Join(names, ", ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, not %s", text, got, want)
		}
	}
	if got := serviceNames(d)[at(nft.UDP, "192.0.2.1:30053")]; got != "other/dns" {
		t.Errorf("a node port is %q", got)
	}
}
