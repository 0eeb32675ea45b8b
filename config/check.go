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

// settings checks all values and returns the Settings. It adds invalid values to c.problems; then only the log settings are
// usable.
func (c *configuration) settings() Settings {
	s := Settings{File: c.file, Effective: c.KubeProxyConfiguration, Verbosity: int(c.Logging.Verbosity), LogFormat: c.Logging.Format}
	s.Manifests, s.Kubeconfig, s.Master = c.source()
	s.Node = c.node()
	s.NodePorts = c.nodePorts()
	s.Node.Loopback = c.loopback
	s.PrimaryIP = c.primaryIP()
	s.NodePorts = c.completeFamilies(s.NodePorts, s.PrimaryIP)
	c.checkMode()
	c.checkFeatureGates()
	s.MinSyncPeriod = c.period("nftables.minSyncPeriod", c.NFTables.MinSyncPeriod.Duration)
	s.ResetGoneEndpoints = c.goneDelay()

	s.Healthz = c.listenAddress("healthzBindAddress", c.HealthzBindAddress, c.healthzPort)
	s.Metrics = c.listenAddress("metricsBindAddress", c.MetricsBindAddress, c.metricsPort)
	s.BindAddressHardFail, s.Profiling = c.BindAddressHardFail, c.EnableProfiling
	s.Statusz, s.Flagz = c.hasPage(statuszPage), c.hasPage(flagzPage)

	s.Conntrack = c.conntrack()
	if s.OOMScoreAdj = c.OOMScoreAdj; s.OOMScoreAdj != nil && (*s.OOMScoreAdj < -1000 || *s.OOMScoreAdj > 1000) {
		c.fail("oomScoreAdj", fmt.Errorf("%d is not between -1000 and 1000", *s.OOMScoreAdj))
	}
	if s.LogFormat != "text" && s.LogFormat != "json" {
		c.fail("logging.format", fmt.Errorf("%q is neither text nor json", s.LogFormat))
	}
	return s
}

// source returns the settings of the source of Services.
func (c *configuration) source() (manifests, kubeconfig, master string) {
	const field = "clientConnection.kubeconfig"
	manifests, kubeconfig, master = c.manifests, c.ClientConnection.Kubeconfig, c.master
	switch {
	case manifests != "" && kubeconfig != "" && c.fromFile(field):
		c.warn(field, "ignored because of --manifests")
		kubeconfig = ""
	case manifests != "" && (kubeconfig != "" || master != ""):
		c.problems = append(c.problems, errors.New("--manifests cannot be combined with --kubeconfig or --master"))
	case manifests == "" && kubeconfig == "" && master == "" && !inCluster():
		c.problems = append(c.problems, errors.New("no source of Services: set --manifests DIR or --kubeconfig FILE, or run in a Pod, "+
			"where KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are set"))
	}
	return manifests, kubeconfig, master
}

// inCluster reports whether the process runs in a Pod. kubelet sets these variables in every container.
func inCluster() bool {
	return os.Getenv("KUBERNETES_SERVICE_HOST") != "" && os.Getenv("KUBERNETES_SERVICE_PORT") != ""
}

func (c *configuration) checkMode() {
	switch c.Mode {
	case "", modeNFTables:
	case modeIPTables, modeIPVS:
		c.warn("mode", fmt.Sprintf("mode %s is not available: Services become nftables rules", c.Mode))
	default:
		c.fail("mode", fmt.Errorf("%q is not one of nftables, iptables, ipvs", c.Mode))
	}
}

// node returns the description of this machine without the facts of its Node object.
func (c *configuration) node() render.Node {
	name, err := nodeName(c.HostnameOverride)
	if err != nil {
		c.fail("hostnameOverride", err)
	}
	instance, err := render.NewInstance(c.serviceProxyName)
	if err != nil {
		c.failAt("--"+serviceProxyName, err)
	}
	n := render.Node{
		Instance:      instance,
		Name:          name,
		ClusterCIDRs:  c.clusterCIDRs(),
		MasqueradeAll: c.NFTables.MasqueradeAll || c.Mode != modeNFTables && c.IPTables.MasqueradeAll,
	}
	if n.ServiceCIDRs, err = parsePrefixes(c.serviceCIDR); err != nil {
		c.failAt("--service-cidr", err)
	}
	if instance.Name() != "" && len(n.ServiceCIDRs) > 0 {
		c.warnAt("--service-cidr", "has no effect with --"+serviceProxyName+": unused addresses belong to another proxy")
		n.ServiceCIDRs = nil
	}
	if c.affinitySize < 1 {
		c.failAt("--session-affinity-size", fmt.Errorf("%d is less than 1", c.affinitySize))
	}
	n.AffinityClients = uint32(c.affinitySize)
	if !render.IsMaglevSize(c.maglevSize) {
		c.failAt("--maglev-table-size", fmt.Errorf("%d is not a prime from 3 to %d", c.maglevSize, render.MaxMaglevSize))
	}
	n.MaglevSize = uint32(c.maglevSize)
	if c.maxServiceElements < 1 {
		c.failAt("--max-service-elements", fmt.Errorf("%d is less than 1", c.maxServiceElements))
	}
	n.MaxServiceElements = uint32(c.maxServiceElements)
	if c.maxElements < 1 {
		c.failAt("--max-elements", fmt.Errorf("%d is less than 1", c.maxElements))
	}
	n.MaxElements = uint32(c.maxElements)
	n.Counters, n.UnservedPorts, n.AnswerPing = c.connectionCounters(), c.unservedPortsAction(), c.answerPing
	if n.ExternalIPs = c.allowlist("--external-ips", c.externalIPs); c.externalIPsDenied() {
		n.ExternalIPs = render.Allowlist{Only: true}
	}
	n.LoadBalancerIPs = c.allowlist("--load-balancer-ips", c.loadBalancerIPs)
	c.detectLocal(&n)
	return n
}

// allowlist parses the value of --external-ips or --load-balancer-ips. An empty value is invalid: a protection must not be
// disabled because a variable was left empty.
func (c *configuration) allowlist(flag, text string) render.Allowlist {
	switch strings.TrimSpace(text) {
	case "any":
		return render.Allowlist{}
	case "none":
		return render.Allowlist{Only: true}
	}
	prefixes, err := parsePrefixes(text)
	if err == nil && len(prefixes) == 0 {
		err = fmt.Errorf("%q is not one of any, none, CIDR[,CIDR...]", text)
	}
	if err != nil {
		c.failAt(flag, err)
	}
	return render.Allowlist{Only: true, Within: prefixes}
}

func (c *configuration) connectionCounters() render.Counters {
	switch c.counters {
	case "services":
	case "endpoints":
		return render.CountEndpoints
	case "none":
		return render.CountNothing
	default:
		c.failAt("--connection-counters", fmt.Errorf("%q is not one of none, services, endpoints", c.counters))
	}
	return render.CountServices
}

func (c *configuration) unservedPortsAction() render.UnservedPorts {
	switch c.unservedPorts {
	case "pass":
	case "refuse":
		return render.RefuseUnserved
	case "drop":
		return render.DropUnserved
	default:
		c.failAt("--unserved-ports", fmt.Errorf("%q is not one of refuse, drop, pass", c.unservedPorts))
	}
	return render.PassUnserved
}

// nodeName returns the name of the Node object, trimmed and in lower case as in kubelet and kube-proxy. Without an override
// it is the host name.
func nodeName(override string) (string, error) {
	name := strings.TrimSpace(override)
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("not set, and the host name cannot be determined: %w", err)
		}
		name = strings.TrimSpace(host)
	}
	return strings.ToLower(name), nil
}

func (c *configuration) clusterCIDRs() []netip.Prefix {
	cidrs, err := parsePrefixes(c.ClusterCIDR)
	if err == nil && (len(cidrs) > 2 || len(cidrs) == 2 && cidrs[0].Addr().Is4() == cidrs[1].Addr().Is4()) {
		err = fmt.Errorf("%q contains more than one CIDR of a family", c.ClusterCIDR)
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

// detectLocal sets how the node recognizes Pods. The modes are those of kube-proxy.
func (c *configuration) detectLocal(n *render.Node) {
	bridge, prefix := c.DetectLocal.BridgeInterface, c.DetectLocal.InterfaceNamePrefix
	switch mode := c.DetectLocalMode; mode {
	case "", "ClusterCIDR":
		c.checkNoInterface(bridge, prefix)
	case "NodeCIDR":
		n.NodeCIDR = true
		c.checkNoInterface(bridge, prefix)
	case "BridgeInterface":
		n.PodInterface = bridge
		c.checkInterface(bridgeField, bridge)
	case "InterfaceNamePrefix":
		n.PodInterface = prefix + "*"
		c.checkInterface(prefixField, prefix)
	default:
		c.fail("detectLocalMode", fmt.Errorf("%q is not one of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix", mode))
	}
}

// checkNoInterface reports interfaces that are set although the mode uses none: with an error for a flag, and with a warning
// for a field, because kube-proxy accepts it.
func (c *configuration) checkNoInterface(bridge, prefix string) {
	for _, f := range []struct{ field, value, mode string }{
		{bridgeField, bridge, "BridgeInterface"}, {prefixField, prefix, "InterfaceNamePrefix"},
	} {
		switch {
		case f.value == "":
		case c.fromFile(f.field):
			c.warn(f.field, "has an effect only with detectLocalMode "+f.mode)
		default:
			c.fail(f.field, errors.New("valid only with --detect-local-mode "+f.mode))
		}
	}
}

// maxInterfaceName is the maximum length of an interface name in bytes (IFNAMSIZ without the final NUL).
const maxInterfaceName = 15

func (c *configuration) checkInterface(field, name string) {
	if name == "" || len(name) > maxInterfaceName || strings.ContainsAny(name, "/*\" \t") {
		c.fail(field, fmt.Errorf("%q is not an interface name", name))
	}
}

// primaryIP returns the address of bindAddress, or an invalid address if bindAddress is 0.0.0.0 or ::.
func (c *configuration) primaryIP() netip.Addr {
	ip, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(c.BindAddress))
	if !ok {
		c.fail("bindAddress", fmt.Errorf("%q is not an IP address", c.BindAddress))
		return netip.Addr{}
	}
	if ip = ip.Unmap(); ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}

// listenAddress returns an IP address with a port: port is used if the address has none. If port is 0 there is no server and
// the result is empty.
func (c *configuration) listenAddress(field, address string, port int) string {
	if address == "" || port == 0 {
		return ""
	}
	address = withPort(address, port)
	host, number, err := net.SplitHostPort(address)
	if n, numberErr := strconv.ParseUint(number, 10, 16); err != nil || numberErr != nil || n == 0 || utilnet.ParseIPSloppy(host) == nil {
		c.fail(field, fmt.Errorf("%q is not an IP address with a port, such as 127.0.0.1:10249 or [::1]:10249", address))
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

// count returns the value of a number, 0 if it is not set.
func (c *configuration) count(field string, n *int32) int {
	if n == nil {
		return 0
	}
	if *n < 0 {
		c.fail(field, fmt.Errorf("%d is less than 0", *n))
	}
	return int(*n)
}

// timeout returns the value of a timeout of the kernel, which counts it in seconds, 0 if it is not set.
func (c *configuration) timeout(field string, d *metav1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	if d.Duration > 0 && d.Duration < time.Second {
		c.fail(field, fmt.Errorf("%s is less than a second", d.Duration))
	}
	return c.period(field, d.Duration)
}

// maxGoneDelay is the largest value of --reset-gone-endpoints. Linux itself gives up a connection without answers after about
// 15 minutes (tcp_retries2 in Documentation/networking/ip-sysctl.rst).
const maxGoneDelay = 15 * time.Minute

// goneDelay returns the value of --reset-gone-endpoints.
func (c *configuration) goneDelay() time.Duration {
	d := c.resetGone.Duration
	if d != 0 && (d < time.Second || d > maxGoneDelay) {
		c.failAt("--reset-gone-endpoints", fmt.Errorf("%s is neither 0 nor between 1s and 15m", d))
	}
	return d
}

// period returns the value of a duration, which must not be negative.
func (c *configuration) period(field string, d time.Duration) time.Duration {
	if d < 0 {
		c.fail(field, fmt.Errorf("%s is less than 0", d))
	}
	return d
}
