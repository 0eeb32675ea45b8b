package config

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagValues returns the values of the flags by name, for /flagz: those of the command line or the environment, else the defaults,
// whatever a file says. Flags that the help does not list are left out unless they are set.
func flagValues(c *cli.Context, beside bool) map[string]string {
	conf := newConfiguration("")
	conf.setDefaults(beside)
	for _, o := range options() {
		if c.IsSet(o.Names()[0]) {
			o.set(conf, c)
		}
	}
	conf.setDefaultsOfSource(beside)
	scoreUnchanged := conf.OOMScoreAdj == nil
	values := make(map[string]string)
	for _, o := range options() {
		name := o.Names()[0]
		visible, ok := o.Flag.(cli.VisibleFlag)
		switch {
		case !c.IsSet(name) && ok && !visible.IsVisible():
		case name == "oom-score-adj" && scoreUnchanged: // 0 would be a score
			values[name] = ""
		case o.text == nil:
			values[name] = fmt.Sprint(c.Value(name))
		default:
			values[name] = o.text(conf)
		}
	}
	return values
}

// classified replaces values that may contain a secret, as in kube-proxy.
const classified = "CLASSIFIED"

// withoutSecrets returns the URL of an API server, or classified if it may contain a password or a token: in front of the host, or in a
// query.
func withoutSecrets(server string) string {
	if strings.ContainsAny(server, "@?#") {
		return classified
	}
	return server
}
