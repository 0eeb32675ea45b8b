package report_test

import (
	"net/netip"
	"strings"
	"testing"

	"nfproxy/nft"
	"nfproxy/render"
	"nfproxy/report"
)

// TestParseTarget: what the commands accept as a target, and that errors begin with what was given.
func TestParseTarget(t *testing.T) {
	at := netip.MustParseAddrPort
	service := func(namespace, name string) render.ServiceName {
		return render.ServiceName{Namespace: namespace, Name: name}
	}
	for text, want := range map[string]report.Target{
		"10.96.0.1:80":               {At: at("10.96.0.1:80")},
		"10.96.0.1:80/TCP":           {At: at("10.96.0.1:80"), Protocol: nft.TCP},
		"10.96.0.1:53/udp":           {At: at("10.96.0.1:53"), Protocol: nft.UDP},
		"[fd00::1]:80/sctp":          {At: at("[fd00::1]:80"), Protocol: nft.SCTP},
		"web":                        {Service: service("default", "web")},
		"default/web":                {Service: service("default", "web")},
		"web:http":                   {Service: service("default", "web"), Port: "http"},
		"web:http/tcp":               {Service: service("default", "web"), Port: "http", Protocol: nft.TCP},
		"kube-system/kube-dns:53":    {Service: service("kube-system", "kube-dns"), Port: "53"},
		"kube-system/dns:53/udp":     {Service: service("kube-system", "dns"), Port: "53", Protocol: nft.UDP},
		"web/udp":                    {Service: service("web", "udp")},
		"10.96.0.1":                  {},
		"[fd00::1]":                  {},
		"fd00::1/64":                 {},
		"10.96.0.1:0":                {},
		"10.96.0.1:80/":              {},
		"10.96.0.1:80/icmp":          {},
		"10.96.0.1:http":             {},
		"[::ffff:10.96.0.1]:80":      {},
		"[fe80::1%eth0]:80":          {},
		"":                           {},
		"web:":                       {},
		"web:http/":                  {},
		"web:http/icmp":              {},
		"/web":                       {},
		"-web ":                      {},
		"a/b/c":                      {},
		"Web":                        {},
		"default/web:http:more":      {},
		"default/web; nft flush all": {},
	} {
		got, err := report.ParseTarget(text)
		if got != want || (err != nil) != (want == report.Target{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), `"`+text+`"`) {
			t.Errorf("%q: the error does not begin with it: %v", text, err)
		}
		if again, err := report.ParseTarget(got.String()); want != (report.Target{}) && (err != nil || again != got) {
			t.Errorf("%q: String returns %q, which is parsed as %+v, %v", text, got, again, err)
		}
	}
}

// targets is a description with Services that have several addresses, ports and protocols.
func targets() report.Description {
	frontends := func(kind render.Kind, texts ...string) (all []report.Frontend) {
		for _, text := range texts {
			a := netip.MustParseAddrPort(text)
			all = append(all, report.Frontend{Address: a.Addr(), Port: a.Port(), Kind: kind})
		}
		return all
	}
	dns := append(frontends(render.NodePort, "192.0.2.1:30053"), frontends(render.ClusterIP, "10.96.0.11:53")...)
	return report.Description{Services: []report.ServicePort{
		{Namespace: "default", Name: "dns", Port: "dns", Protocol: "UDP", Frontends: frontends(render.ClusterIP, "10.96.0.10:53", "[fd00::10]:53")},
		{Namespace: "default", Name: "dns", Port: "dns-tcp", Protocol: "TCP", Frontends: frontends(render.ClusterIP, "10.96.0.10:53")},
		{Namespace: "other", Name: "dns", Port: "", Protocol: "UDP", Frontends: dns},
	}}
}

// parsed is the target that a text names.
func parsed(t *testing.T, text string) report.Target {
	t.Helper()
	target, err := report.ParseTarget(text)
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestFrontends: the frontends that a target names, which nfproxy trace follows.
func TestFrontends(t *testing.T) {
	for text, want := range map[string]string{
		"dns":             "udp 10.96.0.10:53, udp [fd00::10]:53, tcp 10.96.0.10:53",
		"dns:dns-tcp":     "tcp 10.96.0.10:53",
		"dns:53":          "udp 10.96.0.10:53, udp [fd00::10]:53, tcp 10.96.0.10:53",
		"dns:53/tcp":      "tcp 10.96.0.10:53",
		"other/dns:30053": "udp 192.0.2.1:30053, udp 10.96.0.11:53",
		"10.96.0.10:99":   "tcp 10.96.0.10:99",
		"[fd00::10]:53":   "tcp [fd00::10]:53",
		"10.96.0.9:5/udp": "udp 10.96.0.9:5",
		"web":             "the kernel's tables have no Service default/web: it does not exist, is headless, or is not programmed yet; nfproxy dump lists all",
		"dns:54":          "the kernel's tables have no port 54 of Service default/dns; nfproxy dump lists all",
		"dns:dns/tcp":     "the kernel's tables have no port dns/tcp of Service default/dns; nfproxy dump lists all",
	} {
		all, err := parsed(t, text).Frontends(targets())
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
}

// TestFrontend: the one frontend that nfproxy explain takes, for clients of either family.
func TestFrontend(t *testing.T) {
	for _, c := range []struct{ text, client, want string }{
		{"dns:dns", "", "udp 10.96.0.10:53"},
		{"dns:dns", "fd00::1", "udp [fd00::10]:53"},
		{"dns:53/tcp", "10.0.0.1", "tcp 10.96.0.10:53"},
		{"other/dns", "", "udp 10.96.0.11:53"},
		{"other/dns:53", "", "udp 10.96.0.11:53"},
		{"other/dns:30053", "", "udp 192.0.2.1:30053"},
		{"10.96.0.10:53", "fd00::1", "tcp 10.96.0.10:53"},
		{"dns", "", "default/dns names several ports; choose one of default/dns:dns/udp, default/dns:dns-tcp/tcp"},
		{"other/dns", "fd00::1", "no address of Service other/dns has the address family of fd00::1"},
		{"dns:54", "", "the kernel's tables have no port 54 of Service default/dns; nfproxy dump lists all"},
	} {
		var client netip.Addr
		if c.client != "" {
			client = netip.MustParseAddr(c.client)
		}
		f, err := parsed(t, c.text).Frontend(targets(), client)
		got := f.Protocol.String() + " " + f.AddrPort.String()
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s from %s: %s, not %s", c.text, c.client, got, c.want)
		}
	}
}

// TestSelect: the Service ports and frontends that nfproxy dump prints.
func TestSelect(t *testing.T) {
	for text, want := range map[string]string{
		"dns":                 "default/dns:dns 2, default/dns:dns-tcp 1",
		"dns:dns":             "default/dns:dns 2",
		"other/dns:30053/udp": "other/dns 2",
		"10.96.0.10:53":       "default/dns:dns 1, default/dns:dns-tcp 1",
		"10.96.0.10:53/tcp":   "default/dns:dns-tcp 1",
		"10.96.0.10:54":       "the kernel's tables have no frontend 10.96.0.10:54; nfproxy dump lists all",
		"web":                 "the kernel's tables have no Service default/web: it does not exist, is headless, or is not programmed yet; nfproxy dump lists all",
	} {
		d, err := parsed(t, text).Select(targets())
		var names []string
		for _, s := range d.Services {
			names = append(names, report.PortName(s)+" "+string(rune('0'+len(s.Frontends))))
		}
		got := strings.Join(names, ", ")
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s, not %s", text, got, want)
		}
	}
	if d, err := (report.Target{}).Select(targets()); err != nil || len(d.Services) != 3 {
		t.Errorf("the zero Target selects %+v, %v", d, err)
	}
}
