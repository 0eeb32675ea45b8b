package config

import (
	"errors"

	"github.com/urfave/cli/v2"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// peerOptions are kube-proxy's flags that are no flags of nfproxy's own: accepted, because the DaemonSet of a cluster may
// pass them, and not listed by the help.
func peerOptions() []option {
	options := []option{
		hide(text("master", "", "", func(c *configuration) *string { return &c.master })),
		hide(text("proxy-mode", "mode", "", func(c *configuration) *v1alpha1.ProxyMode { return &c.Mode })),
		hide(number("healthz-port", "healthzBindAddress", "", func(c *configuration) *int { return &c.healthzPort })),
		hide(number("metrics-port", "metricsBindAddress", "", func(c *configuration) *int { return &c.metricsPort })),
		refused("cleanup", "nfproxy has a command of its own for it: nfproxy cleanup"),
		refused("init-only", "there is no such step, run sets what needs privilege when it starts; to remove the rules there is nfproxy cleanup"),
	}
	for _, name := range []string{
		"boot-id-file", "config-sync-period", "feature-gates", "iptables-masquerade-bit", "iptables-min-sync-period",
		"iptables-sync-period", "ipvs-exclude-cidrs", "ipvs-min-sync-period", "ipvs-scheduler", "ipvs-sync-period",
		"ipvs-tcp-timeout", "ipvs-tcpfin-timeout", "ipvs-udp-timeout", "kube-api-burst", "kube-api-content-type", "kube-api-qps",
		"log-flush-frequency", "log-json-info-buffer-size", "log-text-info-buffer-size", "machine-id-file",
		"show-hidden-metrics-for-version", "vmodule", "write-config-to",
	} {
		options = append(options, meaningless(&cli.StringFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}}))
	}
	for _, name := range []string{
		"iptables-localhost-nodeports", "ipvs-strict-arp", "log-json-split-stream", "log-text-split-stream",
	} {
		options = append(options, meaningless(&cli.BoolFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}}))
	}
	return options
}

// hide takes a flag out of the help.
func hide(o option) option {
	switch f := o.Flag.(type) {
	case *cli.StringFlag:
		f.Hidden = true
	case *cli.IntFlag:
		f.Hidden = true
	}
	return o
}

// meaningless is a flag that is accepted with a warning.
func meaningless(f cli.Flag) option {
	return option{Flag: f, set: func(conf *configuration, c *cli.Context) {
		conf.warnNamed("--"+f.Names()[0], "has no meaning here")
	}}
}

// refused is a flag that asks for something else than to run.
func refused(name, why string) option {
	return option{
		Flag: &cli.BoolFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}},
		set: func(conf *configuration, c *cli.Context) {
			if c.Bool(name) {
				conf.failNamed("--"+name, errors.New(why))
			}
		},
	}
}
