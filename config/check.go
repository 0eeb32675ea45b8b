package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/utils/net"

	"nfproxy/render"
)

// kube-proxy's modes on Linux.
const (
	modeNFTables = "nftables"
	modeIPTables = "iptables"
	modeIPVS     = "ipvs"
)

// settings checks everything. Whatever makes no sense is among c.problems, all of it, and what is returned is then of no
// use but for the log.
func (c *configuration) settings() Settings {
	s := Settings{File: c.file, Effective: c.KubeProxyConfiguration, Verbosity: int(c.Logging.Verbosity), LogFormat: c.Logging.Format}
	s.Manifests, s.Kubeconfig, s.Master = c.source()
	s.Node = c.node()
	s.NodePorts = c.nodePorts()
	s.PrimaryIP = c.primaryIP()
	c.checkMode()
	s.MinSyncPeriod = c.period("nftables.minSyncPeriod", c.NFTables.MinSyncPeriod.Duration)

	s.Healthz = c.listenAddress("healthzBindAddress", c.HealthzBindAddress, c.healthzPort)
	s.Metrics = c.listenAddress("metricsBindAddress", c.MetricsBindAddress, c.metricsPort)
	s.BindAddressHardFail, s.Profiling = c.BindAddressHardFail, c.EnableProfiling

	s.Conntrack = c.conntrack()
	if s.OOMScoreAdj = c.OOMScoreAdj; s.OOMScoreAdj != nil && (*s.OOMScoreAdj < -1000 || *s.OOMScoreAdj > 1000) {
		c.fail("oomScoreAdj", fmt.Errorf("%d is not between -1000 and 1000", *s.OOMScoreAdj))
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		c.fail("logging.format", fmt.Errorf("%q is neither text nor json", s.LogFormat))
	}
	return s
}

// source decides where Services come from.
func (c *configuration) source() (manifests, kubeconfig, master string) {
	const field = "clientConnection.kubeconfig"
	manifests, kubeconfig, master = c.manifests, c.ClientConnection.Kubeconfig, c.master
	switch {
	case manifests != "" && kubeconfig != "" && c.fromFile(field):
		c.warn(field, "ignored because of --manifests")
		kubeconfig = ""
	case manifests != "" && (kubeconfig != "" || master != ""):
		c.problems = append(c.problems, errors.New("--manifests with --kubeconfig or --master: Services come from one of them"))
	case manifests == "" && kubeconfig == "" && master == "" && !inCluster():
		c.problems = append(c.problems, errors.New("run needs to be told where Services come from: by --manifests DIR, by --kubeconfig FILE, "+
			"or by the environment of a pod, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT"))
	}
	return manifests, kubeconfig, master
}

// inCluster says whether this is a container of a pod, by what kubelet gives to each.
func inCluster() bool {
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" && os.Getenv("KUBERNETES_SERVICE_PORT") != ""
}

func (c *configuration) checkMode() {
	switch c.Mode {
	case "", modeNFTables:
	case modeIPTables, modeIPVS:
		c.warn("mode", fmt.Sprintf("there is no mode %s here: Services become nftables rules", c.Mode))
	default:
		c.fail("mode", fmt.Errorf("%q is none of nftables, iptables and ipvs", c.Mode))
	}
}

// node is what is known of this machine before its Node object is.
func (c *configuration) node() render.Node {
	name, err := nodeName(c.HostnameOverride)
	if err != nil {
		c.fail("hostnameOverride", err)
	}
	n := render.Node{
		Name:          name,
		ClusterCIDRs:  c.clusterCIDRs(),
		MasqueradeAll: c.NFTables.MasqueradeAll || c.Mode != modeNFTables && c.IPTables.MasqueradeAll,
	}
	if n.ServiceCIDRs, err = parsePrefixes(c.serviceCIDR); err != nil {
		c.failNamed("--service-cidr", err)
	}
	if c.affinitySize < 1 {
		c.failNamed("--session-affinity-size", fmt.Errorf("%d is not a number of clients", c.affinitySize))
	}
	n.AffinityClients = uint32(c.affinitySize)
	n.Counters = c.countersOf()
	n.ExternalIPs = c.allowlist("--external-ips", c.externalIPs)
	n.LoadBalancerIPs = c.allowlist("--load-balancer-ips", c.loadBalancerIPs)
	c.detectLocal(&n)
	return n
}

// allowlist reads which addresses are served. An empty text says neither all nor none, so it is refused: what should
// protect must not be off because a variable was not set.
func (c *configuration) allowlist(flag, text string) render.Allowlist {
	switch strings.TrimSpace(text) {
	case "any":
		return render.Allowlist{}
	case "none":
		return render.Allowlist{Only: true}
	}
	prefixes, err := parsePrefixes(text)
	if err == nil && len(prefixes) == 0 {
		err = fmt.Errorf("%q is none of any, none, CIDR[,CIDR...]", text)
	}
	if err != nil {
		c.failNamed(flag, err)
	}
	return render.Allowlist{Only: true, Within: prefixes}
}

func (c *configuration) countersOf() render.Counters {
	switch c.counters {
	case "services":
	case "endpoints":
		return render.CountEndpoints
	case "none":
		return render.CountNothing
	default:
		c.failNamed("--connection-counters", fmt.Errorf("%q is none of none, services, endpoints", c.counters))
	}
	return render.CountServices
}

// nodeName is the name a Node registers with: trimmed and in lower case, as kubelet and kube-proxy do.
func nodeName(override string) (string, error) {
	name := strings.TrimSpace(override)
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("it is not given and the host name cannot be had: %w", err)
		}
		name = strings.TrimSpace(host)
	}
	return strings.ToLower(name), nil
}

func (c *configuration) clusterCIDRs() []netip.Prefix {
	cidrs, err := parsePrefixes(c.ClusterCIDR)
	if err == nil && (len(cidrs) > 2 || len(cidrs) == 2 && cidrs[0].Addr().Is4() == cidrs[1].Addr().Is4()) {
		err = fmt.Errorf("%q has more than one CIDR of a family", c.ClusterCIDR)
	}
	if err != nil {
		c.fail("clusterCIDR", err)
	}
	return cidrs
}

const (
	bridgeField = "detectLocal.bridgeInterface"
	prefixField = "detectLocal.interfaceNamePrefix"
)

// detectLocal sets how the node tells pods, by the mode that kube-proxy calls the same.
func (c *configuration) detectLocal(n *render.Node) {
	bridge, prefix := c.DetectLocal.BridgeInterface, c.DetectLocal.InterfaceNamePrefix
	switch mode := c.DetectLocalMode; mode {
	case "", "ClusterCIDR":
		c.refuseInterfaces(bridge, prefix)
	case "NodeCIDR":
		n.NodeCIDR = true
		c.refuseInterfaces(bridge, prefix)
	case "BridgeInterface":
		n.PodInterface = bridge
		c.checkInterface(bridgeField, bridge)
	case "InterfaceNamePrefix":
		n.PodInterface = prefix + "*"
		c.checkInterface(prefixField, prefix)
	default:
		c.fail("detectLocalMode", fmt.Errorf("%q is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix", mode))
	}
}

// refuseInterfaces says that the mode knows no interfaces. In a file, which kube-proxy may have used, it is a warning.
func (c *configuration) refuseInterfaces(bridge, prefix string) {
	const why = "goes with detectLocalMode "
	for _, f := range []struct{ field, value, mode string }{
		{bridgeField, bridge, "BridgeInterface"}, {prefixField, prefix, "InterfaceNamePrefix"},
	} {
		switch {
		case f.value == "":
		case c.fromFile(f.field):
			c.warn(f.field, why+f.mode+" alone")
		default:
			c.fail(f.field, errors.New("it goes with --detect-local-mode "+f.mode+" alone"))
		}
	}
}

// maxInterfaceName is the longest name an interface can have (IFNAMSIZ without its NUL).
const maxInterfaceName = 15

func (c *configuration) checkInterface(field, name string) {
	if name == "" || len(name) > maxInterfaceName || strings.ContainsAny(name, "/*\" \t") {
		c.fail(field, fmt.Errorf("%q is no name of an interface", name))
	}
}

// nodePorts are the ranges whose addresses serve node ports; none means primary.
func (c *configuration) nodePorts() []netip.Prefix {
	prefixes, err := parseNodePortAddresses(strings.Join(c.NodePortAddresses, ","))
	if err != nil {
		c.fail("nodePortAddresses", err)
	}
	return prefixes
}

// primaryIP is the address that bindAddress says the Node has. An unspecified one says nothing.
func (c *configuration) primaryIP() netip.Addr {
	ip, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(c.BindAddress))
	if !ok {
		c.fail("bindAddress", fmt.Errorf("%q is no IP address", c.BindAddress))
		return netip.Addr{}
	}
	if ip = ip.Unmap(); ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}

// listenAddress is an IP address with a port; port is what it gets if it has none, or 0, which means none at all.
func (c *configuration) listenAddress(field, address string, port int) string {
	if address == "" || port == 0 {
		return ""
	}
	address = withPort(address, port)
	host, number, err := net.SplitHostPort(address)
	if n, bad := strconv.ParseUint(number, 10, 16); err != nil || bad != nil || n == 0 || utilnet.ParseIPSloppy(host) == nil {
		c.fail(field, fmt.Errorf("%q is no IP address with a port, such as 127.0.0.1:10249 or [::1]:10249", address))
	}
	return address
}

func (c *configuration) conntrack() Conntrack {
	return Conntrack{
		MaxPerCore:       c.count("conntrack.maxPerCore", c.Conntrack.MaxPerCore),
		Min:              c.count("conntrack.min", c.Conntrack.Min),
		TCPEstablished:   c.timeout("conntrack.tcpEstablishedTimeout", c.Conntrack.TCPEstablishedTimeout),
		TCPCloseWait:     c.timeout("conntrack.tcpCloseWaitTimeout", c.Conntrack.TCPCloseWaitTimeout),
		TCPBeLiberal:     c.Conntrack.TCPBeLiberal,
		UDPTimeout:       c.timeout("conntrack.udpTimeout", &c.Conntrack.UDPTimeout),
		UDPStreamTimeout: c.timeout("conntrack.udpStreamTimeout", &c.Conntrack.UDPStreamTimeout),
	}
}

// count is a number, 0 if there is none.
func (c *configuration) count(field string, n *int32) int {
	if n == nil {
		return 0
	}
	if *n < 0 {
		c.fail(field, fmt.Errorf("%d is less than 0", *n))
	}
	return int(*n)
}

// timeout is a time that the kernel counts in seconds, 0 if there is none.
func (c *configuration) timeout(field string, d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if d.Duration > 0 && d.Duration < time.Second {
		c.fail(field, fmt.Errorf("%s is less than a second", d.Duration))
	}
	return c.period(field, d.Duration)
}

func (c *configuration) period(field string, d time.Duration) time.Duration {
	if d < 0 {
		c.fail(field, fmt.Errorf("%s is less than 0", d))
	}
	return d
}
