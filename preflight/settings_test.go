package preflight

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// healthy are the files of a node that there is nothing to say against.
func healthy() map[string]string {
	return map[string]string{
		"proc/sys/kernel/osrelease":                   "6.1.0-13-amd64\n",
		"proc/net/if_inet6":                           "",
		"proc/sys/net/ipv4/ip_forward":                "1\n",
		"proc/sys/net/ipv6/conf/all/forwarding":       "1\n",
		"proc/sys/net/ipv4/conf/all/rp_filter":        "0\n",
		"proc/sys/net/ipv4/conf/default/rp_filter":    "1\n",
		"proc/sys/net/ipv4/conf/lo/rp_filter":         "1\n",
		"proc/sys/net/ipv4/conf/eth0/rp_filter":       "2\n",
		"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"proc/sys/net/netfilter/nf_conntrack_max":     "262144\n",
		"proc/sys/net/netfilter/nf_conntrack_count":   "17\n",
		"proc/net/dev":             "Inter-|   Receive\n face |bytes\n    lo: 0 0\n  eth0: 1 2\n",
		"proc/net/ip_vs":           "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port\n",
		"proc/net/ip_tables_names": "filter\n",
	}
}

// fakeNode is a node with these files, a bridge, and no service proxy.
func fakeNode(t *testing.T, files map[string]string) Node {
	t.Helper()
	n := Here()
	n.Root, n.Healthz = t.TempDir(), "127.0.0.1:1"
	n.Bridges = func() ([]string, error) { return []string{"cni0"}, nil }
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

// TestHealthyNode: there is nothing to do about a node that has all.
func TestHealthyNode(t *testing.T) {
	for _, l := range fakeNode(t, healthy()).Check() {
		if l.Level != OK || l.Advice != "" {
			t.Errorf("%+v", l)
		}
	}
}

// TestFiles: what the kernel's files say, and files that make no sense.
func TestFiles(t *testing.T) {
	const gone = "\x00"
	for _, c := range []struct {
		name    string
		files   map[string]string
		level   Level
		check   string
		finding string
	}{
		{"old kernel", map[string]string{"proc/sys/kernel/osrelease": "5.8.18"}, Problem, "kernel", "Linux 5.8.18 cannot"},
		{"older kernel", map[string]string{"proc/sys/kernel/osrelease": "4.19.0"}, Problem, "kernel", "Linux 4.19.0 cannot"},
		{"just new enough", map[string]string{"proc/sys/kernel/osrelease": "5.9.0"}, OK, "kernel", "Linux 5.9.0"},
		{"no number", map[string]string{"proc/sys/kernel/osrelease": "banana"}, Warning, "kernel", `the version "banana" cannot`},
		{"no version", map[string]string{"proc/sys/kernel/osrelease": gone}, Warning, "kernel", "its version is not known: open "},
		{"no routing", map[string]string{"proc/sys/net/ipv4/ip_forward": "0", "proc/net/if_inet6": gone}, Warning, "forwarding", "net.ipv4.ip_forward is 0"},
		{"routing unknown", map[string]string{"proc/sys/net/ipv4/ip_forward": gone, "proc/net/if_inet6": gone}, Warning, "forwarding", "net.ipv4.ip_forward cannot be read: open "},
		{"no IPv6", map[string]string{"proc/net/if_inet6": gone}, OK, "ipv6", "the kernel has no IPv6 here"},
		{"strict", map[string]string{"proc/sys/net/ipv4/conf/eth0/rp_filter": "1"}, Warning, "rp_filter", "strict on eth0: "},
		{"strict by all", map[string]string{"proc/sys/net/ipv4/conf/all/rp_filter": "1", "proc/sys/net/ipv4/conf/eth1/rp_filter": "0"}, Warning, "rp_filter", "strict on eth1: "},
		{"rp_filter garbage", map[string]string{"proc/sys/net/ipv4/conf/all/rp_filter": "x"}, Warning, "rp_filter", "it cannot be read: "},
		{"bridge untracked", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": "0"}, Warning, "bridge", "packets between ports of the bridge cni0 are not tracked"},
		{"no br_netfilter", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": gone}, Warning, "bridge", "packets between ports of the bridge cni0 are not tracked"},
		{"bridge garbage", map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": "x"}, Warning, "bridge", "net.bridge.bridge-nf-call-iptables cannot be read: "},
		{"conntrack nearly full", map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "250000"}, Warning, "conntrack", "250000 connections of at most 262144: "},
		{"conntrack unlimited", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "0"}, OK, "conntrack", "17 connections, without a limit"},
		{"conntrack not loaded", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": gone}, OK, "conntrack", "not loaded yet"},
		{"conntrack garbage", map[string]string{"proc/sys/net/netfilter/nf_conntrack_max": "many"}, Warning, "conntrack", "its limit cannot be read: "},
		{"conntrack count garbage", map[string]string{"proc/sys/net/netfilter/nf_conntrack_count": "few"}, Warning, "conntrack", "how many connections there are cannot be read: "},
		{"virtual services", map[string]string{"proc/net/ip_vs": healthy()["proc/net/ip_vs"] + "TCP  0A600001:01BB rr\n  -> C0A80002:192B Masq 1 0 0\nUDP  0A60000A:0035 rr\n"}, Warning, "ipvs", "there are 2 virtual services: "},
		{"dummy interface", map[string]string{"proc/net/dev": "kube-ipvs0: 0 0", "proc/net/ip_vs": gone}, Warning, "ipvs", "there are the interface kube-ipvs0: "},
		{"legacy", map[string]string{"proc/net/ip_tables_names": "filter\nnat\n", "proc/net/ip6_tables_names": "nat"}, Warning, "iptables-legacy", "ip_tables, ip6_tables has a table nat"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := healthy()
			for name, text := range c.files {
				files[name] = text
				if text == gone {
					delete(files, name)
				}
			}
			l := find(t, fakeNode(t, files).Check(), c.check)
			if l.Level != c.level || !strings.HasPrefix(l.Finding, c.finding) {
				t.Errorf("%+v", l)
			}
			if l.Level == Problem && l.Advice == "" {
				t.Errorf("%+v: what is to be done?", l)
			}
		})
	}
}

// TestUnreadableFiles: a directory in a file's place is said, and taken for nothing.
func TestUnreadableFiles(t *testing.T) {
	files := healthy()
	for _, name := range []string{"proc/net/ip_vs", "proc/net/ip_tables_names"} {
		delete(files, name)
		files[name+"/in/the/way"] = ""
	}
	n := fakeNode(t, files)
	n.Bridges = func() ([]string, error) { return nil, errors.New("no netlink today") }
	n.Flows = func() error { return errors.New("no such device") }
	lines := n.Check()
	for check, finding := range map[string]string{
		"ipvs": "its virtual services cannot be read: ", "iptables-legacy": "which tables it has cannot be read: ",
		"bridge": "the network interfaces cannot be listed: no netlink today", "conntrack-netlink": "the connection tracking cannot be asked: ",
	} {
		if l := find(t, lines, check); l.Level == OK || !strings.HasPrefix(l.Finding, finding) {
			t.Errorf("%+v", l)
		}
	}
}

// answering answers everybody with a status code, without a network.
type answering int

func (code answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: int(code), Body: http.NoBody}, nil
}

// TestDaemon: who answers for a service proxy's health is known by whether it says when it is ready.
func TestDaemon(t *testing.T) {
	for _, c := range []struct {
		code  int
		level Level
		want  string
	}{
		{http.StatusOK, OK, "an nfproxy answers"},
		{http.StatusServiceUnavailable, OK, "an nfproxy answers"},
		{http.StatusNotFound, Warning, "another service proxy answers"},
	} {
		n := fakeNode(t, nil)
		n.Client = &http.Client{Transport: answering(c.code)}
		if l := find(t, n.daemon(), "daemon"); l.Level != c.level || !strings.HasPrefix(l.Finding, c.want) {
			t.Errorf("%d: %+v", c.code, l)
		}
	}
}

// TestSome: a line does not become longer than can be read.
func TestSome(t *testing.T) {
	if got := some(slices.Repeat([]string{"a"}, 7)); got != "a, a, a, a, a and more" {
		t.Error(got)
	}
}
