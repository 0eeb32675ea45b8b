package preflight

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/nlmsg"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// newNamespace returns a network namespace for one test, in which some commands of the shell have run.
func newNamespace(t *testing.T, commands string) *sandbox.Namespace {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	run(t, ns, commands)
	return ns
}

// run runs commands of the shell in a namespace, with a lock of iptables-legacy of their own.
func run(t *testing.T, ns *sandbox.Namespace, commands string) {
	t.Helper()
	if err := ns.Run("", "sh", "-ec", "export XTABLES_LOCKFILE="+t.TempDir()+"/lock\n"+commands); err != nil {
		t.Fatal(err)
	}
}

// loadIn loads a ruleset with nft.
func loadIn(t *testing.T, ns *sandbox.Namespace, ruleset string) {
	t.Helper()
	if err := ns.Run(ruleset, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// linesIn returns the lines of one check of a namespace as "level: finding", without the probes of the kernel.
func linesIn(t *testing.T, ns *sandbox.Namespace, check string, change ...func(*Node)) []string {
	t.Helper()
	var lines []Line
	if err := ns.Do(func() error {
		n := Here(render.Instance{})
		for _, c := range change {
			c(&n)
		}
		lines = slices.Concat(n.conntrack(), n.ephemeralPorts(), n.tables(), n.iptablesLegacy(), n.ipvs(), n.socketLB())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, l := range lines {
		if l.Level != OK && l.Advice == "" {
			t.Errorf("%+v has no advice", l)
		}
		if l.Check == check {
			found = append(found, string(l.Level)+": "+l.Finding)
		}
	}
	return found
}

// wantLines fails the test unless a check returns exactly these lines, of which a trailing * stands for any text.
func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	same := slices.EqualFunc(got, want, func(g, w string) bool {
		prefix, any := strings.CutSuffix(w, "*")
		return g == w || any && strings.HasPrefix(g, prefix)
	})
	if !same {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestEphemeralPorts: node ports among the ephemeral ports are found, unless they are reserved.
func TestEphemeralPorts(t *testing.T) {
	ns := newNamespace(t, "")
	const check, clear = "ephemeral-ports", "ok: ephemeral ports 32768-60999 contain none of the node ports 30000-32767"
	set := func(portRange, reserved string) {
		run(t, ns, "echo "+portRange+" >/proc/sys/net/ipv4/ip_local_port_range; echo '"+reserved+"' >/proc/sys/net/ipv4/ip_local_reserved_ports")
	}
	set("32768 60999", "")
	wantLines(t, linesIn(t, ns, check), clear)
	wantLines(t, linesIn(t, ns, check, func(n *Node) { n.NodePorts.Base, n.NodePorts.Size = 60999, 10 }),
		"warning: ephemeral ports 32768-60999 contain 1 of the node ports 60999-61008: *")
	set("1024 65535", "")
	wantLines(t, linesIn(t, ns, check), "warning: ephemeral ports 1024-65535 contain 2768 of the node ports 30000-32767: *")
	set("1024 30000", "")
	wantLines(t, linesIn(t, ns, check), "warning: ephemeral ports 1024-30000 contain 1 of the node ports 30000-32767: *")
	set("1024 65535", "8080,30000-32766")
	wantLines(t, linesIn(t, ns, check), "warning: ephemeral ports 1024-65535 contain 1 of the node ports 30000-32767: *")
	set("1024 65535", "8080,30000-32767")
	wantLines(t, linesIn(t, ns, check), "ok: ephemeral ports 1024-65535 contain node ports, all of which are reserved")
}

// TestReservedPortsReserve: the kernel gives no socket a reserved port, and gives one without the reservation: what the advice of
// TestEphemeralPorts relies on.
func TestReservedPortsReserve(t *testing.T) {
	ns := newNamespace(t, "echo 30000 30003 >/proc/sys/net/ipv4/ip_local_port_range")
	listen := func() (taken int) {
		var all []net.Listener
		for range 4 {
			if l, err := ns.Listen("tcp", "127.0.0.1:0"); err == nil {
				all = append(all, l)
			}
		}
		for _, l := range all {
			l.Close()
		}
		return len(all)
	}
	if n := listen(); n != 4 {
		t.Errorf("%d sockets got a port of four", n)
	}
	run(t, ns, "echo 30000-30002 >/proc/sys/net/ipv4/ip_local_reserved_ports")
	if n := listen(); n != 1 {
		t.Errorf("%d sockets got a port, three of four ports are reserved", n)
	}
}

// TestParseNodePorts: ranges as the API server takes them.
func TestParseNodePorts(t *testing.T) {
	for text, want := range map[string]string{"30000-32767": "30000-32767", "1+9": "1-10", "80": "80-80"} {
		if r, err := ParseNodePorts(text); err != nil || r.String() != want {
			t.Errorf("%s: %s, %v", text, &r, err)
		}
	}
	for _, text := range []string{"", "0", "0-10", "30000-", "32767-30000", "30000-70000", "http"} {
		if r, err := ParseNodePorts(text); err == nil || !strings.Contains(err.Error(), "is not a range of ports such as 30000-32767") {
			t.Errorf("%q: %s, %v", text, &r, err)
		}
	}
}

// serve loads nfproxy's tables into a namespace. They serve a node port, 31000 of TCP at 192.0.2.10, and a cluster IP, 10.96.0.10.
func serve(t *testing.T, ns *sandbox.Namespace) {
	t.Helper()
	tables := render.Tables(render.Update{
		Node: render.Node{Name: "node-a", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, IPv4Only: true},
		Services: []render.Service{
			{ServiceName: serviceName("web"), ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
				Ports: []render.Port{{Protocol: nft.TCP, Port: 80, NodePort: 31000, Endpoints: endpoints()}}},
			{ServiceName: serviceName("dns"), ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
				Ports: []render.Port{{Protocol: nft.UDP, Port: 53, Endpoints: endpoints()}}},
		}})
	err := ns.Do(func() error {
		k, err := kernel.Open()
		if err != nil {
			return err
		}
		defer k.Close()
		return k.Apply(nft.Diff(nil, tables), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestListeners: sockets at node ports are found, those that a Service hides first, and no others.
func TestListeners(t *testing.T) {
	ns := newNamespace(t, "")
	const check, none = "node-port-listeners", "ok: no other program listens at a node port"
	listen := func(network, at string) interface{ Close() error } {
		var l interface{ Close() error }
		var err error
		if network == "udp" {
			l, err = ns.ListenPacket(network, at)
		} else {
			l, err = ns.Listen(network, at)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	wantLines(t, linesIn(t, ns, check), none)
	for _, at := range []string{"0.0.0.0:29999", "127.0.0.1:31002", "[::1]:31000", "0.0.0.0:32768"} {
		listen("tcp", at)
	}
	wantLines(t, linesIn(t, ns, check), none)
	listen("tcp4", "0.0.0.0:31001")
	listen("udp", "[::]:31000")
	const threatened = "warning: 0.0.0.0:31001/tcp (preflight.test), [::]:31000/udp (preflight.test) in the node port range 30000-32767: *"
	wantLines(t, linesIn(t, ns, check), threatened)

	serve(t, ns)
	wantLines(t, linesIn(t, ns, check), threatened)
	local := listen("tcp", "127.0.0.1:31000")
	wantLines(t, linesIn(t, ns, check), threatened)
	local.Close()
	listen("tcp4", "0.0.0.0:31000")
	wantLines(t, linesIn(t, ns, check),
		"warning: 0.0.0.0:31000/tcp (preflight.test) at node ports of Services: other machines reach the Service at this port instead of the program", threatened)
	wantLines(t, linesIn(t, ns, check, func(n *Node) { n.NodePorts.Base, n.NodePorts.Size = 20000, 10 }),
		"warning: 0.0.0.0:31000/tcp (preflight.test) at node ports of Services: *")
}

// TestWithoutProxies: the health check node ports of nfproxy and kube-proxy are not reported.
func TestWithoutProxies(t *testing.T) {
	all := withoutProxies([]listener{{Program: "nfproxy"}, {Program: "sshd"}, {}, {Program: "kube-proxy"}})
	if len(all) != 2 || all[0].Program != "sshd" || all[1].Program != "" {
		t.Errorf("%+v", all)
	}
}

// nodeLocalRules are the rules of NodeLocal DNSCache for one address.
func nodeLocalRules(iptables, address string) string {
	var all strings.Builder
	for _, protocol := range []string{"tcp", "udp"} {
		for _, rule := range []string{"PREROUTING -d ADDR --dport", "OUTPUT -s ADDR --sport", "OUTPUT -d ADDR --dport"} {
			chain, match, _ := strings.Cut(strings.ReplaceAll(rule, "ADDR", address), " ")
			all.WriteString(iptables + " -t raw -I " + chain + " -p " + protocol + " " + match + " 53 -j NOTRACK\n")
		}
	}
	return all.String()
}

// TestUntracked: rules without connection tracking are found with their destinations, whether iptables or nft wrote them. It matters
// whether the node has the address, and whether a Service has it.
func TestUntracked(t *testing.T) {
	const check, none = "untracked", "ok: no rule exempts packets from connection tracking"
	for _, c := range []struct{ name, iptables, nft, chains string }{
		{"iptables-nft", nodeLocalRules("iptables-nft", "10.96.0.10") + nodeLocalRules("iptables-nft", "169.254.20.10"), "", "ip raw OUTPUT, ip raw PREROUTING"},
		{"iptables-legacy", nodeLocalRules("iptables-legacy", "10.96.0.10") + nodeLocalRules("iptables-legacy", "169.254.20.10"), "", "ip raw OUTPUT, ip raw PREROUTING"},
		{"nft", "", `table inet local-dns {
			chain prerouting {
				type filter hook prerouting priority raw
				ip daddr 10.96.0.10 udp dport 53 notrack
				ip daddr 169.254.20.10 tcp dport 53 notrack
			}
			chain output { type filter hook output priority raw; ip saddr 10.96.0.10 udp sport 53 notrack; }
		}`, "inet local-dns prerouting"},
		{"a set", "", `table ip local-dns {
			set addresses { type ipv4_addr; elements = { 10.96.0.10, 169.254.20.10 }; }
			chain prerouting {
				type filter hook prerouting priority raw
				ip daddr @addresses udp dport 53 notrack
				ip daddr . tcp dport { 10.96.0.10 . 53, 169.254.20.10 . 53 } notrack
			}
		}`, "ip local-dns prerouting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := newNamespace(t, "")
			wantLines(t, linesIn(t, ns, check), none)
			run(t, ns, c.iptables)
			loadIn(t, ns, c.nft)
			wantLines(t, linesIn(t, ns, check), "warning: packets to 10.96.0.10, 169.254.20.10 are not tracked ("+c.chains+"), and this node does not have the address: *")
			serve(t, ns)
			wantLines(t, linesIn(t, ns, check), "warning: packets to 10.96.0.10 are not tracked ("+c.chains+"), and this node does not have the address: *",
				"ok: rules in "+c.chains+" exempt further packets from connection tracking: *")
			run(t, ns, "ip link add nodelocaldns type veth peer name far0; ip addr add 10.96.0.10/32 dev nodelocaldns; ip addr add 169.254.20.10/32 dev nodelocaldns")
			wantLines(t, linesIn(t, ns, check), "ok: packets to 10.96.0.10, 169.254.20.10 are not tracked ("+c.chains+") and not translated: *")
		})
	}
}

// TestUntrackedWithoutAddress: other rules without connection tracking are named, and rules that do something else in the same
// chains are not.
func TestUntrackedWithoutAddress(t *testing.T) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) { testUntrackedWithoutAddress(t, backend) })
	}
}

func testUntrackedWithoutAddress(t *testing.T, backend string) {
	commands := func(text string) string { return strings.ReplaceAll(text, "tables-nft", "tables-"+backend) }
	ns := newNamespace(t, commands("iptables-nft -t raw -A PREROUTING -i lxc0 -j CT --zone 7; iptables-nft -t raw -A PREROUTING -d 10.96.0.10 -j ACCEPT"))
	loadIn(t, ns, "table inet late { chain c { type filter hook prerouting priority 0; ip daddr 10.96.0.10 notrack; }; }")
	wantLines(t, linesIn(t, ns, "untracked"), "ok: no rule exempts packets from connection tracking")
	run(t, ns, commands("iptables-nft -t raw -A PREROUTING -i lxc0 -j CT --notrack; ip6tables-nft -t raw -A OUTPUT -d fd00:10:96::/112 -j CT --notrack"))
	wantLines(t, linesIn(t, ns, "untracked"), "ok: rules in ip raw PREROUTING, ip6 raw OUTPUT exempt further packets from connection tracking: *")
	run(t, ns, commands("ip6tables-nft -t raw -A OUTPUT -d fd00:10:96::a -j CT --notrack; iptables-nft -t raw -A OUTPUT ! -d 10.96.0.10 -j CT --notrack"))
	wantLines(t, linesIn(t, ns, "untracked"), "warning: packets to fd00:10:96::a are not tracked (*",
		"ok: rules in ip raw OUTPUT, ip raw PREROUTING, ip6 raw OUTPUT exempt further packets from connection tracking: *")
}

// TestOtherProxies: network plugins that serve Services are recognised by their interfaces, tables and chains, and not by those
// of network policies, which are not kube-proxy's either.
func TestOtherProxies(t *testing.T) {
	const check, none = "other-proxies", "ok: no sign of a network plugin that serves Services"
	ns := newNamespace(t, "")
	wantLines(t, linesIn(t, ns, check), none)
	loadIn(t, ns, `table ip filter {
		chain KUBE-ROUTER-FORWARD { }
		chain KUBE-POD-FW-ABCDEF { }
		chain KUBE-NWPLCY-DEFAULT { }
		chain cali-FORWARD { }
	}`)
	wantLines(t, linesIn(t, ns, check), none)
	wantLines(t, linesIn(t, ns, "kube-proxy-iptables"), "ok: no chains of kube-proxy in iptables-nft")
	wantLines(t, linesIn(t, ns, "ipvs"), "ok: no virtual services")

	loadIn(t, ns, "table ip nat { chain CILIUM_PRE_nat { }; }; table ip filter { chain KUBE-ROUTER-SERVICES { }; }; table inet ovn-kubernetes { }")
	for i, link := range []string{"cilium_host", "bpfin.cali", "kube-dummy-if", "antrea-gw0"} {
		run(t, ns, "ip link add "+link+" type veth peer name far"+string(rune('0'+i)))
	}
	wantLines(t, linesIn(t, ns, check),
		"ok: Cilium (interface cilium_host, chain ip nat CILIUM_PRE_nat): *",
		"warning: Calico in eBPF mode (interface bpfin.cali): *",
		"warning: kube-router's service proxy (interface kube-dummy-if, chain ip filter KUBE-ROUTER-SERVICES): *",
		"ok: Antrea (interface antrea-gw0): *",
		"warning: OVN-Kubernetes (table inet ovn-kubernetes): *")
}

// TestLegacyTables: chains of kube-proxy and of other proxies in iptables-legacy are found, in their namespace only; and a check
// creates no table.
func TestLegacyTables(t *testing.T) {
	const none = "ok: no chains of kube-proxy in iptables-legacy"
	ns, other := newNamespace(t, ""), newNamespace(t, "")
	wantLines(t, linesIn(t, ns, "iptables-legacy"), none)
	run(t, ns, "iptables-legacy -t nat -N KUBE-KUBELET-CANARY; iptables-legacy -t filter -N KUBE-ROUTER-FORWARD; ip6tables-legacy -t raw -S >/dev/null")
	wantLines(t, linesIn(t, ns, "iptables-legacy"), none)
	run(t, ns, `iptables-legacy -t nat -N KUBE-SERVICES
		iptables-legacy -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
		iptables-legacy -t nat -N CILIUM_PRE_nat
		ip6tables-legacy -t nat -N KUBE-SVC-TCOU7JCQXEZGVUNU`)
	wantLines(t, linesIn(t, ns, "iptables-legacy"),
		"warning: kube-proxy chains in iptables-legacy: 2 (ip nat KUBE-SERVICES, ip6 nat KUBE-SVC-TCOU7JCQXEZGVUNU); *")
	wantLines(t, linesIn(t, ns, "other-proxies"), "ok: Cilium (chain ip nat CILIUM_PRE_nat): *")
	wantLines(t, linesIn(t, other, "iptables-legacy"), none)
	run(t, other, `! grep . /proc/thread-self/net/ip_tables_names /proc/thread-self/net/ip6_tables_names`)
}

// TestLegacyBesideKubeProxy: to an nfproxy with a service proxy name, the chains of kube-proxy are no problem.
func TestLegacyBesideKubeProxy(t *testing.T) {
	ns := newNamespace(t, "iptables-legacy -t nat -N KUBE-SERVICES")
	blue := func(n *Node) {
		var err error
		if n.Instance, err = render.NewInstance("blue"); err != nil {
			t.Error(err)
		}
	}
	wantLines(t, linesIn(t, ns, "iptables-legacy", blue),
		"ok: kube-proxy chains in iptables-legacy: 1 (ip nat KUBE-SERVICES); they serve the Services without a service proxy name")
}

// TestSocketLB: a BPF program at a cgroup is found, in the cgroup and below it, as long as it is attached. It needs a cgroup of
// its own, so that no other process is affected; the program allows every connection.
func TestSocketLB(t *testing.T) {
	if users, err := os.ReadFile("/proc/self/uid_map"); err != nil || !strings.Contains(string(users), " 4294967295") {
		t.Skip("needs root: the kernel loads no BPF programs for a user namespace")
	}
	const check = "socket-lb"
	root, err := cgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, "nfproxy-preflight-")
	if err != nil {
		t.Fatal(err)
	}
	below := filepath.Join(dir, "below")
	t.Cleanup(func() { os.Remove(below); os.Remove(dir) })
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, "")
	at := func(cgroup string) func(*Node) {
		return func(n *Node) { n.Cgroup = func() (string, error) { return cgroup, nil } }
	}
	wantLines(t, linesIn(t, ns, check, at(below)), "ok: no BPF program replaces the destinations of sockets in "+below)

	attach := func(name string, hook ebpf.AttachType) link.Link {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.CGroupSockAddr, AttachType: hook, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: hook, Program: p})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	first := attach("cil_sock4_conne", ebpf.AttachCGroupInet4Connect)
	attach("other", ebpf.AttachCGroupUDP6Sendmsg)
	attach("unrelated", ebpf.AttachCGroupInet4Bind)
	for _, cgroup := range []string{dir, below} {
		wantLines(t, linesIn(t, ns, check, at(cgroup)), "warning: BPF programs in "+cgroup+
			" can connect sockets to endpoints of Services before nfproxy's rules see a packet: cil_sock4_conne of Cilium (CGroupInet4Connect), other (CGroupUDP6Sendmsg)")
	}
	for _, c := range []struct {
		without uint32
		want    string
	}{
		{1 << unix.CAP_SYS_ADMIN, "warning: BPF programs in " + below + " can connect sockets to endpoints of Services before nfproxy's rules see a packet: program *"},
		{1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN, "warning: BPF programs of sockets cannot be found: *"},
	} {
		var lines []Line
		n := Node{SocketPrograms: socketPrograms}
		at(below)(&n)
		if err := without(c.without, func() { lines = n.socketLB() }); err != nil {
			t.Fatal(err)
		}
		wantLines(t, []string{string(lines[0].Level) + ": " + lines[0].Finding}, c.want)
	}
	first.Close()
	wantLines(t, linesIn(t, ns, check, at(below)), "warning: BPF programs in "+below+" can connect sockets *")
	wantLines(t, linesIn(t, ns, check, at(filepath.Join(dir, "missing"))), "warning: BPF programs of sockets cannot be found: open *")
}

// without calls a function on a thread whose effective capabilities lack some of the first 32.
func without(capabilities uint32, call func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before, data [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		return err
	}
	data = before
	data[0].Effective &^= capabilities
	if capabilities&(1<<unix.CAP_SYS_ADMIN) != 0 {
		data[1].Effective &^= 1 << (unix.CAP_BPF - 32)
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return err
	}
	call()
	return unix.Capset(&header, &before[0])
}

// TestConntrackDrops: the counters of a namespace whose table of connections is full are reported; those of another are not.
// The limit belongs to the machine, so the table is filled with as many entries as it allows.
func TestConntrackDrops(t *testing.T) {
	const none = "ok: no packet was dropped, and no entry was evicted"
	full, other := newNamespace(t, ""), newNamespace(t, "")
	wantLines(t, linesIn(t, full, "conntrack-drops"), none)
	loadIn(t, full, "table ip t { chain c { type filter hook output priority 0; ct state new counter; }; }")
	if err := full.Do(fillConntrack); err != nil {
		t.Fatal(err)
	}
	if got := linesIn(t, full, "conntrack"); len(got) != 1 || !strings.HasPrefix(got[0], "problem: ") || !strings.Contains(got[0], "the table is full") {
		t.Errorf("%q", got)
	}
	if got := linesIn(t, full, "conntrack-drops"); len(got) != 1 || !strings.HasPrefix(got[0], "warning: ") || strings.Contains(got[0], " 0 packets dropped") {
		t.Errorf("%q", got)
	}
	if got := linesIn(t, other, "conntrack"); len(got) != 1 || !strings.HasPrefix(got[0], "ok: 0 of ") {
		t.Errorf("%q", got)
	}
	wantLines(t, linesIn(t, other, "conntrack-drops"), none)
}

// fillConntrack adds entries of connections that are not evicted early until there is no room, and then sends a packet, which the
// kernel drops.
func fillConntrack() error {
	nl, err := nlmsg.Dial()
	if err != nil {
		return err
	}
	defer nl.Close()
	var batch nlmsg.Message
	for i, full := 0, false; i < 2_000_000 && !full; i++ {
		nl.Seq++
		appendEntry(&batch, nl.Seq, i)
		if len(batch.Buf) < 60_000 {
			continue
		}
		if err := nl.Send(batch.Buf); err != nil {
			return err
		}
		batch.Buf = batch.Buf[:0]
		answers, err := nl.Receive(false) // only errors are answered
		if err != nil {
			return err
		}
		for h, body := range nlmsg.Messages(answers) {
			full = full || h.Type == unix.NLMSG_ERROR && -int32(nlmsg.NativeUint32(body)) == int32(unix.ENOMEM)
		}
	}
	c, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = c.Write([]byte("x")) // EPERM, if the packet is dropped
	return nil
}

// appendEntry appends the i-th entry, with attributes of enum ctattr_type, ctattr_tuple, ctattr_ip and ctattr_l4proto
// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
func appendEntry(m *nlmsg.Message, seq uint32, i int) {
	const (
		original, reply, status, timeout, ip, proto = 1, 2, 3, 7, 1, 2
		assured                                     = 1<<1 | 1<<2 | 1<<3 // IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
	)
	m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, 0), unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL, seq, unix.AF_INET, 0)
	from, to := []byte{10, byte(i >> 24), byte(i >> 16), byte(i >> 8)}, []byte{198, 51, 100, 1}
	fromPort, toPort := uint16(1024+i&0xff), uint16(9)
	for _, kind := range []uint16{original, reply} {
		tuple := m.Nest(kind)
		addresses := m.Nest(ip)
		m.Bytes(1, from)
		m.Bytes(2, to)
		m.Unnest(addresses)
		ports := m.Nest(proto)
		m.Bytes(1, []byte{unix.IPPROTO_UDP})
		m.Uint16(2, fromPort)
		m.Uint16(3, toPort)
		m.Unnest(ports)
		m.Unnest(tuple)
		from, to, fromPort, toPort = to, from, toPort, fromPort
	}
	m.Uint32(status, assured)
	m.Uint32(timeout, 3600)
	m.End()
}
