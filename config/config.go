package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"
	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// FromCLI makes settings of the flags, their environment variables and the content of the file that --config names. c is
// the context of a command with Flags. The error is all that makes no sense, a line each; the settings are then of use to
// the log alone.
func FromCLI(c *cli.Context, file []byte) (Settings, []Warning, error) {
	conf := newConfiguration(c.String("config"))
	if conf.file != "" {
		if conf.read(file); len(conf.problems) > 0 {
			return Settings{}, conf.warnings, conf.err()
		}
	}
	setDefaults(&conf.KubeProxyConfiguration)
	for _, o := range options() {
		name := o.Names()[0]
		switch {
		case !c.IsSet(name):
		case conf.file != "" && o.field != "" && !o.overrides:
			conf.warnNamed("--"+name, "ignored because of --config")
		default:
			o.set(conf, c)
			conf.set(o.field, "--"+name)
		}
	}
	if conf.manifests == "" {
		setMachineDefaults(&conf.KubeProxyConfiguration)
	}
	s := conf.settings()
	return s, conf.warnings, conf.err()
}

// configuration is what flags and a file ask for, before it is checked: a KubeProxyConfiguration, and what that has no
// field for.
type configuration struct {
	v1alpha1.KubeProxyConfiguration
	manifests, master, serviceCIDR string
	affinitySize                   int
	counters                       string
	externalIPs, loadBalancerIPs   string
	// healthzPort and metricsPort are kube-proxy's old flags: the ports of addresses without one, 0 for not at all.
	healthzPort, metricsPort int

	// file is the path of the KubeProxyConfiguration, empty if there is none.
	file string
	// setBy has the flags that set a field; the others are the file's.
	setBy    map[string]string
	warnings []Warning
	problems []error
}

// Warning is something that was asked for and is not done, and no reason to stand still.
type Warning struct {
	// What says why.
	What string
	// Setting is a flag, or the path of a field in File, the KubeProxyConfiguration's path.
	Setting, File string
}

// Ports that kube-proxy serves at, unless told otherwise.
const (
	healthzPort = 10256
	metricsPort = 10249
)

func newConfiguration(file string) *configuration {
	return &configuration{
		file:            file,
		affinitySize:    render.DefaultAffinityClients,
		counters:        "services",
		externalIPs:     "any",
		loadBalancerIPs: "any",
		healthzPort:     healthzPort,
		metricsPort:     metricsPort,
		setBy:           map[string]string{},
	}
}

// set notes that a flag has set a field, if there is one for it.
func (c *configuration) set(field, flag string) {
	if field != "" {
		c.setBy[field] = flag
	}
}

// fromFile says whether the file is who said what a field is.
func (c *configuration) fromFile(field string) bool { return c.file != "" && c.setBy[field] == "" }

// flagOf is the name of the flag for a field.
func (c *configuration) flagOf(field string) string {
	i := slices.IndexFunc(options(), func(o option) bool { return o.field == field })
	if i < 0 {
		return field
	}
	return cmp.Or(c.setBy[field], "--"+options()[i].Names()[0])
}

// fail notes that the value of a field makes no sense, and failNamed that of what a user calls by that name.
func (c *configuration) fail(field string, err error) {
	if c.fromFile(field) {
		c.problems = append(c.problems, fmt.Errorf("%s: %s: %w", c.file, field, err))
		return
	}
	c.failNamed(c.flagOf(field), err)
}

func (c *configuration) failNamed(flag string, err error) {
	c.problems = append(c.problems, fmt.Errorf("%s: %w", flag, err))
}

// warn notes that a field is not followed, and warnNamed that what a user calls by that name is not.
func (c *configuration) warn(field, what string) {
	if c.fromFile(field) {
		c.warnings = append(c.warnings, Warning{What: what, Setting: field, File: c.file})
		return
	}
	c.warnNamed(c.flagOf(field), what)
}

func (c *configuration) warnNamed(flag, what string) {
	c.warnings = append(c.warnings, Warning{What: what, Setting: flag})
}

// err is all that is wrong, a line each.
func (c *configuration) err() error { return errors.Join(c.problems...) }
