package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// gate is a feature gate that kube-proxy 1.36 or 1.37 reads.
type gate struct {
	name string
	// only, if not nil, is the only value that nfproxy implements. The other value is an error. Without only, both values are
	// valid.
	only *bool
	// why is the reason. It is a cell of the table in docs/configuration.md.
	why string
}

// The gates that have an effect: allowExternalIPs restricts which addresses Services may claim, localhostNodePorts decides
// whether node ports are served at loopback addresses, and allAlpha is its default. flagzPage and statuszPage decide whether there are
// these pages, and allBeta is their default.
const (
	allowExternalIPs   = "AllowServiceExternalIPs"
	localhostNodePorts = "KubeProxyNFTablesLocalhostNodePorts"
	allAlpha           = "AllAlpha"
	flagzPage          = "ComponentFlagz"
	statuszPage        = "ComponentStatusz"
	allBeta            = "AllBeta"
)

const (
	clientGate  = "configures client-go; nfproxy reads client-go's variable `KUBE_FEATURE_` and the name instead"
	loggingGate = "the settings of the log that it permits have no effect"
	windowsGate = "for Windows"
)

// kubeProxyGates returns the gates that the code of kube-proxy reads. A gate that could restrict access must not be among those
// without effect.
func kubeProxyGates() []gate {
	return []gate{
		{allowExternalIPs, nil, "false means `--external-ips none`, also if that flag has another value; with true the flag decides"},
		{"MultiCIDRServiceAllocator", new(true), "ServiceCIDRs are always read; 1.36 refuses false, too"},
		{"PreferSameTrafficDistribution", new(true), "hints for nodes are always used; 1.36 refuses false, too"},
		{"NFTablesProxyMode", new(true), "nftables is the only mode; 1.36 refuses false, too"},
		{localhostNodePorts, nil, "true serves TCP node ports at loopback addresses that `nodePortAddresses` contains, and false does not; " +
			"without the gate, only the flag `--nodeport-addresses` serves them"},
		{"NFTablesNetlink", nil, "netlink is always used"},
		{"KubeProxyIPVS", nil, "there is no mode ipvs; the mode ipvs means nftables"},
		{flagzPage, nil, "with false there is no page /flagz"},
		{statuszPage, nil, "with false there is no page /statusz"},
		{"NativeHistograms", nil, "histograms are always served in the classic format"},
		{"ContextualLogging", nil, "changes only the text of log messages"},
		{"LoggingAlphaOptions", nil, loggingGate},
		{"LoggingBetaOptions", nil, loggingGate},
		{"WinDSR", nil, windowsGate},
		{"WinOverlay", nil, windowsGate},
		{"AtomicFIFO", nil, clientGate},
		{"ClientsAllowCARotation", nil, clientGate},
		{"ClientsAllowCBOR", nil, clientGate},
		{"ClientsAllowTLSCacheGC", nil, clientGate},
		{"ClientsPreferCBOR", nil, clientGate},
		{"InOrderInformers", nil, clientGate},
		{"InOrderInformersBatchProcess", nil, clientGate},
		{"InformerResourceVersion", nil, clientGate},
		{"UnlockWhileProcessingFIFO", nil, clientGate},
		{"WatchListClient", nil, clientGate},
		{allAlpha, nil, "true is the default of `KubeProxyNFTablesLocalhostNodePorts`; of the other alpha gates above, none restricts access"},
		{allBeta, nil, "false is the default of `ComponentFlagz` and `ComponentStatusz`; of the other beta gates above, none restricts access"},
	}
}

// findGate returns the gate of a name. It reports whether kube-proxy knows the gate.
func findGate(name string) (gate, bool) {
	gates := kubeProxyGates()
	if i := slices.IndexFunc(gates, func(g gate) bool { return g.name == name }); i >= 0 {
		return gates[i], true
	}
	return gate{name: name}, slices.Contains(strings.Fields(otherGates), name)
}

// checkFeatureGates reports the gates that are unknown, have a value that nfproxy does not implement, or have no effect. An
// unknown gate is an error, as in kube-proxy: it could restrict access.
func (c *configuration) checkFeatureGates() {
	for _, name := range slices.Sorted(maps.Keys(c.FeatureGates)) {
		value := c.FeatureGates[name]
		g, known := findGate(name)
		switch {
		case name == allowExternalIPs, name == flagzPage, name == statuszPage:
		case name == localhostNodePorts && !value, c.servesLocalhost(name), name == allBeta && !value:
		case !known:
			c.failGate(name, fmt.Errorf("%v: no feature gate of kube-proxy 1.36 or 1.37 has this name", value))
		case g.only == nil:
			c.warnGate(name)
		case *g.only != value:
			c.failGate(name, fmt.Errorf("%v is not supported: %s", value, g.why))
		}
	}
}

// externalIPsDenied reports whether the gate AllowServiceExternalIPs is off. Then kube-proxy ignores all external IPs.
func (c *configuration) externalIPsDenied() bool {
	allowed, set := c.FeatureGates[allowExternalIPs]
	return set && !allowed
}

// hasPage reports whether the gate of a page is on, as it is by default.
func (c *configuration) hasPage(gate string) bool {
	for _, name := range []string{gate, allBeta} {
		if on, set := c.FeatureGates[name]; set {
			return on
		}
	}
	return true
}

// servesLocalhost reports whether a gate is the reason why node ports are served at loopback addresses.
func (c *configuration) servesLocalhost(gate string) bool {
	_, explicit := c.FeatureGates[localhostNodePorts]
	return len(c.loopback) > 0 && c.FeatureGates[gate] && (gate == localhostNodePorts || gate == allAlpha && !explicit)
}

// localhostAllowed reports whether the gates allow node ports at loopback addresses. Without a gate, kube-proxy 1.37 does not
// serve them. A flag that names loopback addresses has no other purpose, so it needs no gate.
func (c *configuration) localhostAllowed() bool {
	for _, gate := range []string{localhostNodePorts, allAlpha} {
		if on, set := c.FeatureGates[gate]; set && (on || gate == localhostNodePorts) {
			return on
		}
	}
	return !c.fromFile("nodePortAddresses")
}

const (
	gatesField = "featureGates"
	gatesFlag  = "feature-gates"
)

func (c *configuration) failGate(name string, err error) {
	if c.fromFile(gatesField) {
		c.fail(gatesField+"."+name, err)
		return
	}
	c.failAt("--"+gatesFlag, fmt.Errorf("%s: %w", name, err))
}

func (c *configuration) warnGate(name string) {
	if c.fromFile(gatesField) {
		c.warn(gatesField+"."+name, "has no effect")
		return
	}
	c.warnAt("--"+gatesFlag, name+" has no effect")
}

// gatesOption returns the option of --feature-gates.
func gatesOption() option {
	return option{
		Flag:  listFlag{&cli.StringSliceFlag{Name: gatesFlag, Hidden: true, EnvVars: []string{envVar(gatesFlag)}}},
		field: gatesField,
		set:   func(conf *configuration, c *cli.Context) { conf.setFeatureGates(c.StringSlice(gatesFlag)) },
		text: func(conf *configuration) string {
			var all []string
			for _, name := range slices.Sorted(maps.Keys(conf.FeatureGates)) {
				all = append(all, fmt.Sprintf("%s=%v", name, conf.FeatureGates[name]))
			}
			return strings.Join(all, ",")
		},
	}
}

// setFeatureGates parses the values of --feature-gates with the syntax of kube-proxy.
func (c *configuration) setFeatureGates(texts []string) {
	c.FeatureGates = map[string]bool{}
	for _, text := range texts {
		if strings.TrimSpace(text) == "" {
			continue
		}
		name, value, ok := strings.Cut(text, "=")
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if !ok || err != nil {
			c.failAt("--"+gatesFlag, fmt.Errorf("%q is not NAME=true or NAME=false", strings.TrimSpace(text)))
			continue
		}
		c.FeatureGates[strings.TrimSpace(name)] = on
	}
}
