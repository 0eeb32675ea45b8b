package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/urfave/cli/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// FromCLI returns the settings of the flags, of their environment variables and of the content of the file that --config
// names; file is ignored without --config. c is the context of a command with Flags or SourceFlags. The error contains all
// invalid values, a line for each. With an error, only the log settings of the returned Settings are usable.
func FromCLI(c *cli.Context, file []byte) (Settings, []Warning, error) {
	conf := newConfiguration(c.String("config"))
	if conf.file != "" {
		if conf.read(file); len(conf.problems) > 0 {
			return Settings{}, conf.warnings, conf.err()
		}
	}
	beside := c.String(serviceProxyName) != "" // another proxy, which has the default addresses and the settings of the machine
	conf.setDefaults(beside)
	for _, o := range options() {
		name := o.Names()[0]
		switch {
		case !c.IsSet(name):
		case conf.file != "" && o.field != "" && !o.overrides:
			conf.warnAt("--"+name, "ignored because of --config")
		default:
			o.set(conf, c)
			conf.setByFlag(o.field, "--"+name)
		}
	}
	conf.setDefaultsOfSource(beside)
	s := conf.settings()
	s.Flags = flagValues(c, beside)
	return s, conf.warnings, conf.err()
}

// setDefaults sets the defaults that flags replace. beside is true if nfproxy runs beside another proxy.
func (c *configuration) setDefaults(beside bool) {
	setDefaults(&c.KubeProxyConfiguration)
	if !beside {
		setServerDefaults(&c.KubeProxyConfiguration)
	}
}

// setDefaultsOfSource sets the defaults that depend on the source of Services. It is called after the flags have been set.
func (c *configuration) setDefaultsOfSource(beside bool) {
	if c.manifests != "" {
		return
	}
	setProcessDefaults(&c.KubeProxyConfiguration)
	if !beside {
		setMachineDefaults(&c.KubeProxyConfiguration)
	}
}

// configuration holds the values of flags and of a file before they are checked: a KubeProxyConfiguration and the values for
// which it has no field.
type configuration struct {
	v1alpha1.KubeProxyConfiguration
	manifests, master, serviceCIDR string
	serviceProxyName               string
	affinitySize                   int
	maglevSize                     int
	maxServiceElements             int
	maxElements                    int
	counters, unservedPorts        string
	answerPing                     bool
	resetGone                      metav1.Duration
	externalIPs, loadBalancerIPs   string
	// loopback are the loopback addresses at which node ports are served. They follow from other values.
	loopback []netip.Addr
	// healthzPort and metricsPort are deprecated flags of kube-proxy: the ports of addresses without a port, 0 for no server.
	healthzPort, metricsPort int

	// file is the path of the KubeProxyConfiguration, empty without one.
	file string
	// flags maps the fields that a flag has set to the flag. Other fields are set by the file or have the default.
	flags    map[string]string
	warnings []Warning
	problems []error
}

// Warning is about a value that is valid and has no effect.
type Warning struct {
	// What is the reason.
	What string
	// Setting is a flag, or a field of File, the path of the KubeProxyConfiguration.
	Setting, File string
}

// The default ports of kube-proxy's servers.
const (
	healthzPort = 10256
	metricsPort = 10249
)

func newConfiguration(file string) *configuration {
	return &configuration{
		file:               file,
		affinitySize:       render.DefaultAffinityClients,
		maglevSize:         render.DefaultMaglevSize,
		maxServiceElements: render.DefaultMaxServiceElements,
		maxElements:        render.DefaultMaxElements,
		counters:           "services",
		unservedPorts:      "pass",
		externalIPs:        "any",
		loadBalancerIPs:    "any",
		healthzPort:        healthzPort,
		metricsPort:        metricsPort,
		flags:              map[string]string{},
	}
}

// setByFlag records that a flag has set a field. Some flags have no field.
func (c *configuration) setByFlag(field, flag string) {
	if field != "" {
		c.flags[field] = flag
	}
}

// fromFile reports whether the value of a field comes from the file.
func (c *configuration) fromFile(field string) bool { return c.file != "" && c.flags[field] == "" }

// flagOf returns the flag for a field, or the field if there is no flag for it.
func (c *configuration) flagOf(field string) string {
	i := slices.IndexFunc(options(), func(o option) bool { return o.field == field })
	if i < 0 {
		return field
	}
	return cmp.Or(c.flags[field], "--"+options()[i].Names()[0])
}

// fail records that the value of a field is invalid. The message names the flag, or the file and the field.
func (c *configuration) fail(field string, err error) {
	if c.fromFile(field) {
		c.problems = append(c.problems, fmt.Errorf("%s: %s: %w", c.file, field, err))
		return
	}
	c.failAt(c.flagOf(field), err)
}

// failAt records that the value of a flag, or a whole file, is invalid.
func (c *configuration) failAt(flagOrFile string, err error) {
	c.problems = append(c.problems, fmt.Errorf("%s: %w", flagOrFile, err))
}

// warn records that the value of a field has no effect.
func (c *configuration) warn(field, what string) {
	if c.fromFile(field) {
		c.warnings = append(c.warnings, Warning{What: what, Setting: field, File: c.file})
		return
	}
	c.warnAt(c.flagOf(field), what)
}

// warnAt records a warning about a flag or a whole file.
func (c *configuration) warnAt(flagOrFile, what string) {
	c.warnings = append(c.warnings, Warning{What: what, Setting: flagOrFile})
}

// err returns all problems, a line for each.
func (c *configuration) err() error { return errors.Join(c.problems...) }
