package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"k8s.io/kube-proxy/config/v1alpha1"

	"nfproxy/render"
)

// configuration is what flags and a file ask for, before it is checked: a KubeProxyConfiguration, and what that has no
// field for.
type configuration struct {
	v1alpha1.KubeProxyConfiguration
	manifests, master, serviceCIDR string
	affinitySize                   int
	// healthzPort and metricsPort are kube-proxy's old flags: the ports of addresses without one, 0 for not at all.
	healthzPort, metricsPort int

	// file is the path of the KubeProxyConfiguration, empty if there is none.
	file string
	// setBy has the flags that set a field; the others are the file's.
	setBy    map[string]string
	warnings []warning
	problems []error
}

// warning is something that was asked for and is not done, and no reason to stand still.
type warning struct {
	// what says why.
	what string
	// setting is a flag, or the path of a field in file.
	setting, file string
}

// Ports that kube-proxy serves at, unless told otherwise.
const (
	healthzPort = 10256
	metricsPort = 10249
)

func newConfiguration(file string) *configuration {
	return &configuration{
		file:         file,
		affinitySize: render.DefaultAffinityClients,
		healthzPort:  healthzPort,
		metricsPort:  metricsPort,
		setBy:        map[string]string{},
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
		c.warnings = append(c.warnings, warning{what: what, setting: field, file: c.file})
		return
	}
	c.warnNamed(c.flagOf(field), what)
}

func (c *configuration) warnNamed(flag, what string) {
	c.warnings = append(c.warnings, warning{what: what, setting: flag})
}

// err is all that is wrong, a line each.
func (c *configuration) err() error { return errors.Join(c.problems...) }
