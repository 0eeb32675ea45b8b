package config

import (
	"errors"

	"github.com/urfave/cli/v2"
	"k8s.io/kube-proxy/config/v1alpha1"
)

// kubeProxyOptions returns the flags of kube-proxy that nfproxy accepts only for compatibility, because the DaemonSet of a
// cluster may pass them. The help does not list them.
func kubeProxyOptions() []option {
	options := []option{
		masterOption(),
		hide(stringOption("proxy-mode", "mode", "", func(c *configuration) *v1alpha1.ProxyMode { return &c.Mode })),
		hide(intOption("healthz-port", "healthzBindAddress", "", func(c *configuration) *int { return &c.healthzPort })),
		hide(intOption("metrics-port", "metricsBindAddress", "", func(c *configuration) *int { return &c.metricsPort })),
		gatesOption(),
		invalid("cleanup", "use the command nfproxy cleanup instead"),
		invalid("init-only", "not supported: run applies privileged settings when it starts; the command nfproxy cleanup removes the rules"),
	}
	for _, name := range []string{
		"boot-id-file", "config-sync-period", "iptables-masquerade-bit", "iptables-min-sync-period",
		"iptables-sync-period", "ipvs-exclude-cidrs", "ipvs-min-sync-period", "ipvs-scheduler", "ipvs-sync-period",
		"ipvs-tcp-timeout", "ipvs-tcpfin-timeout", "ipvs-udp-timeout", "kube-api-burst", "kube-api-content-type", "kube-api-qps",
		"log-flush-frequency", "log-json-info-buffer-size", "log-text-info-buffer-size", "machine-id-file",
		"show-hidden-metrics-for-version", "vmodule", "write-config-to",
	} {
		options = append(options, withoutEffect(&cli.StringFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}}))
	}
	for _, name := range []string{
		"iptables-localhost-nodeports", "ipvs-strict-arp", "log-json-split-stream", "log-text-split-stream",
	} {
		options = append(options, withoutEffect(&cli.BoolFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}}))
	}
	return options
}

// masterOption returns the option of --master, whose value may contain a password.
func masterOption() option {
	o := hide(stringOption("master", "", "", func(c *configuration) *string { return &c.master }))
	o.text = func(c *configuration) string { return withoutSecrets(c.master) }
	return o
}

// hide removes a flag from the help.
func hide(o option) option {
	switch f := o.Flag.(type) {
	case *cli.StringFlag:
		f.Hidden = true
	case *cli.IntFlag:
		f.Hidden = true
	}
	return o
}

// withoutEffect returns an option for a flag that is accepted with a warning.
func withoutEffect(f cli.Flag) option {
	return option{Flag: f, set: func(conf *configuration, c *cli.Context) {
		conf.warnAt("--"+f.Names()[0], "has no effect")
	}}
}

// invalid returns an option for a boolean flag that is an error when it is true.
func invalid(name, reason string) option {
	return option{
		Flag: &cli.BoolFlag{Name: name, Hidden: true, EnvVars: []string{envVar(name)}},
		set: func(conf *configuration, c *cli.Context) {
			if c.Bool(name) {
				conf.failAt("--"+name, errors.New(reason))
			}
		},
	}
}
