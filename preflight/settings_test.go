package preflight

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nfproxy/render"
)

// healthy returns the kernel files of a node without any warning or problem.
func healthy() map[string]string {
	return map[string]string{
		"proc/sys/kernel/osrelease":                   "6.1.0-13-amd64\n",
		"proc/thread-self/net/if_inet6":               "",
		"proc/sys/net/ipv4/ip_forward":                "1\n",
		"proc/sys/net/ipv6/conf/all/forwarding":       "1\n",
		"proc/sys/net/ipv4/conf/all/rp_filter":        "0\n",
		"proc/sys/net/ipv4/conf/default/rp_filter":    "1\n",
		"proc/sys/net/ipv4/conf/lo/rp_filter":         "1\n",
		"proc/sys/net/ipv4/conf/eth0/rp_filter":       "2\n",
		"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"proc/sys/net/netfilter/nf_conntrack_max":     "262144\n",
		"proc/sys/net/netfilter/nf_conntrack_count":   "17\n",
		"proc/sys/net/ipv4/ip_local_port_range":       "32768\t60999\n",
		"proc/sys/net/ipv4/ip_local_reserved_ports":   "\n",
		"proc/thread-self/net/stat/nf_conntrack": "entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error expect_new expect_create expect_delete search_restart\n" +
			"00000011  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n",
		"proc/thread-self/net/dev":             "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  eth0: 1 2\n",
		"proc/thread-self/net/ip_vs":           "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port\n",
		"proc/thread-self/net/ip_tables_names": "filter\n",
	}
}

// fakeNode returns a node with the files, a bridge, and no service proxy.
func fakeNode(t *testing.T, files map[string]string) Node {
	t.Helper()
	n := Here(render.Instance{})
	n.Root, n.Healthz = t.TempDir(), "127.0.0.1:1"
	n.Bridges = func() ([]string, error) { return []string{"cni0"}, nil }
	n.Cgroup = func() (string, error) { return "/sys/fs/cgroup", nil }
	n.SocketPrograms = func(string) ([]string, error) { return nil, nil }
	n.LegacyTable = func(_ legacyFormat, name string) (legacyEntries, error) {
		if name == "unreadable" {
			return legacyEntries{}, errors.New("a fault of the test")
		}
		return legacyEntries{}, nil
	}
	for name, text := range files {
		path := filepath.Join(n.Root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestHealthyNode: a node that meets all requirements has neither warnings nor advice.
func TestHealthyNode(t *testing.T) {
	for _, l := range fakeNode(t, healthy()).Check() {
		if l.Level != OK || l.Advice != "" {
			t.Errorf("%+v", l)
		}
	}
}

// TestFiles: each check reports the values of the kernel's files, and missing and malformed files.
func TestFiles(t *testing.T) {
	const missing = "\x00"
	for _, c := range []struct {
		name    string
		files   map[string]string
		level   Level
		check   string
		finding string
	}{
		{"old kernel", map[string]string{"proc/sys/kernel/osrelease": "5.8.18"}, Problem, "kernel", "Linux 5.8.18 does not support reject"},
		{"older kernel", map[string]string{"proc/sys/kernel/osrelease": "4.19.0"}, Problem, "kernel", "Linux 4.19.0 does not support reject"},
		{"untested kernel", map[string]string{"proc/sys/kernel/osrelease": "5.9.0"}, Warning, "kernel", "Linux 5.9.0 is older than 6.1"},
		{"untested kernel of the next series", map[string]string{"proc/sys/kernel/osrelease": "6.0.19"}, Warning, "kernel", "Linux 6.0.19 is older than 6.1"},
		{"just new enough", map[string]string{"proc/sys/kernel/osrelease": "6.1.0"}, OK, "kernel", "Linux 6.1.0"},
		{"no number", map[string]string{"proc/sys/kernel/osrelease": "banana"}, Warning, "kernel", `kernel version "banana" cannot`},
		{"no version", map[string]string{"proc/sys/kernel/osrelease": missing}, Warning, "kernel", "kernel version cannot be read: open "},
		{"no routing", map[string]string{"proc/sys/net/ipv4/ip_forward": "0", "proc/thread-self/net/if_inet6": missing}, Warning, "forwarding", "net.ipv4.ip_forward is 0"},
		{"routing unknown", map[string]string{"proc/sys/net/ipv4/ip_forward": missing, "proc/thread-self/net/if_inet6": missing}, Warning, "forwarding", "net.ipv4.ip_forward cannot be read: open "},
		{"no IPv6", map[string]string{"proc/thread-self/net/if_inet6": missing}, OK, "ipv6", "no IPv6 in this network namespace"},
		{"strict", map[string]string{"proc/sys/net/ipv4/conf/eth0/rp_filter": "1"}, Warning, "rp_filter", "strict on eth0: "},
		{"strict by all", map[string]string{"proc/sys/net/ipv4/conf/all/rp_filter": "1", "proc/sys/net/ipv4/conf/eth1/rp_filter": "0"}, Warning, "rp_filter", "strict on eth1: "},
		{"rp_filter garbage", map[string]string{"proc/sys/net/ipv4/conf/all/rp_filter": "x"}, Warning, "rp_filter", "rp_filter cannot be read: "},
		{"bridge without conntrack", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": "0"}, Warning, "bridge", "packets bridged by cni0 bypass conntrack"},
		{"no br_netfilter", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": missing}, Warning, "bridge", "packets bridged by cni0 bypass conntrack"},
		{"bridge garbage", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": "x"}, Warning, "bridge", "net.bridge.bridge-nf-call-iptables cannot be read: "},
		{"conntrack nearly full", map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "250000"}, Warning, "conntrack", "250000 of 262144 entries in use: "},
		{"conntrack of nine", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "9", "proc/sys/net/netfilter/nf_conntrack_count": "7"}, OK, "conntrack",
			"7 of 9 entries in use"},
		{"conntrack unlimited", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "0"}, OK, "conntrack", "17 entries, no limit"},
		{"conntrack not loaded", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": missing}, OK, "conntrack", "nf_conntrack is not loaded yet"},
		{"conntrack garbage", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "many"}, Warning, "conntrack", "nf_conntrack_max cannot be read: "},
		{"conntrack count garbage", map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "few"}, Warning, "conntrack", "nf_conntrack_count cannot be read: "},
		{"conntrack full", map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "262144"}, Problem, "conntrack", "262144 of 262144 entries in use: the table is full"},
		{"conntrack counters garbage", map[string]string{"proc/thread-self/net/stat/nf_conntrack": "entries\nx"}, Warning, "conntrack-drops", "counters of conntrack cannot be read: "},
		{"no conntrack counters", map[string]string{"proc/thread-self/net/stat/nf_conntrack": missing}, Warning, "conntrack-drops", "counters of conntrack cannot be read: open "},
		{"port range garbage", map[string]string{"proc/sys/net/ipv4/ip_local_port_range": "many"}, Warning, "ephemeral-ports", `ip_local_port_range "many" cannot be parsed`},
		{"no port range", map[string]string{"proc/sys/net/ipv4/ip_local_port_range": missing}, Warning, "ephemeral-ports", "ip_local_port_range cannot be read: open "},
		{"reserved ports garbage", map[string]string{"proc/sys/net/ipv4/ip_local_reserved_ports": "1-b"}, Warning, "ephemeral-ports", `ip_local_reserved_ports "1-b" cannot be parsed`},
		{"no reserved ports", map[string]string{"proc/sys/net/ipv4/ip_local_reserved_ports": missing}, Warning, "ephemeral-ports", "ip_local_reserved_ports cannot be read: open "},
		{"virtual services", map[string]string{"proc/thread-self/net/ip_vs": healthy()["proc/thread-self/net/ip_vs"] + "TCP  0A600001:01BB rr\n  -> C0A80002:192B Masq 1 0 0\nUDP  0A60000A:0035 rr\n"}, Warning, "ipvs", "found 2 virtual services: "},
		{"dummy interface", map[string]string{"proc/thread-self/net/dev": "kube-ipvs0: 0 0", "proc/thread-self/net/ip_vs": missing}, Warning, "ipvs", "found the interface kube-ipvs0: "},
		{"legacy", map[string]string{"proc/thread-self/net/ip_tables_names": "unreadable"}, Warning, "iptables-legacy", "tables cannot be read: ip unreadable: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := healthy()
			for name, text := range c.files {
				files[name] = text
				if text == missing {
					delete(files, name)
				}
			}
			l := find(t, fakeNode(t, files).Check(), c.check)
			if l.Level != c.level || !strings.HasPrefix(l.Finding, c.finding) {
				t.Errorf("%+v", l)
			}
			if l.Level == Problem && l.Advice == "" {
				t.Errorf("%+v has no advice", l)
			}
		})
	}
}

// TestUnreadableSources: each check reports that its file, netlink or conntrack cannot be read.
func TestUnreadableSources(t *testing.T) {
	files := healthy()
	for _, name := range []string{"proc/thread-self/net/ip_vs", "proc/thread-self/net/ip_tables_names"} {
		delete(files, name)
		files[name+"/in/the/way"] = ""
	}
	n := fakeNode(t, files)
	n.Bridges = func() ([]string, error) { return nil, errors.New("no netlink") }
	n.Links = n.Bridges
	n.OpenConntrack = func() error { return errors.New("no such device") }
	n.Cgroup = func() (string, error) { return "", errors.New("it is not mounted") }
	lines := n.Check()
	for check, finding := range map[string]string{
		"ipvs": "virtual services cannot be read: ", "iptables-legacy": "tables cannot be read: ",
		"bridge": "network interfaces cannot be listed: no netlink", "conntrack-netlink": "conntrack is not available over netlink: ",
		"other-proxies": "network interfaces cannot be listed: no netlink", "socket-lb": "BPF programs of sockets cannot be found: no cgroup v2: it is not mounted",
	} {
		if l := find(t, lines, check); l.Level == OK || !strings.HasPrefix(l.Finding, finding) {
			t.Errorf("%+v", l)
		}
	}
}

// fixedStatus answers every request with a status code, without a network.
type fixedStatus int

func (code fixedStatus) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(code), Body: http.NoBody}, nil
}

// TestDaemon: a service proxy that serves /readyz is nfproxy, one that does not is another.
func TestDaemon(t *testing.T) {
	for _, c := range []struct {
		code  int
		level Level
		want  string
	}{
		{http.StatusOK, OK, "nfproxy answers"},
		{http.StatusServiceUnavailable, OK, "nfproxy answers"},
		{http.StatusNotFound, Warning, "another service proxy, probably kube-proxy, answers"},
	} {
		n := fakeNode(t, nil)
		n.Client = &http.Client{Transport: fixedStatus(c.code)}
		if l := find(t, n.daemon(), "daemon"); l.Level != c.level || !strings.HasPrefix(l.Finding, c.want) {
			t.Errorf("%d: %+v", c.code, l)
		}
	}
}

// TestJoinNames: the number of names is limited.
func TestJoinNames(t *testing.T) {
	if got := joinNames(slices.Repeat([]string{"a"}, 7)); got != "a, a, a, a, a and more" {
		t.Error(got)
	}
}
