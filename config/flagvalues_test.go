package config

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// flagsOf returns the values of the flags of a command line.
func flagsOf(t *testing.T, args ...string) map[string]string {
	t.Helper()
	var values map[string]string
	run := &cli.Command{Name: "run", Flags: Flags(), Action: func(c *cli.Context) error {
		s, _, err := FromCLI(c, []byte(header+"clientConnection: {kubeconfig: other}\nmetricsBindAddress: 192.0.2.1:9\n"))
		values = s.Flags
		return err
	}}
	app := &cli.App{Commands: []*cli.Command{run}, ExitErrHandler: func(*cli.Context, error) {}}
	if err := app.Run(append([]string{"nfproxy", "run"}, args...)); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestFlagValues: /flagz has every flag of the help, with its value or its default, whatever a file says, and of the other flags those
// that are set.
func TestFlagValues(t *testing.T) {
	t.Setenv("NFPROXY_CONNTRACK_MIN", "7")
	for _, tc := range []struct {
		args string
		want map[string]string
	}{
		{"--kubeconfig=/etc/kubeconfig", map[string]string{"kubeconfig": "/etc/kubeconfig", "metrics-bind-address": "127.0.0.1:10249",
			"conntrack-min": "7", "conntrack-max-per-core": "32768", "oom-score-adj": "-999", "min-sync-period": "0s", "maglev-table-size": "1021",
			"profiling": "false", "nodeport-addresses": "[]", "external-ips": "any", "bind-address": "0.0.0.0", "v": "0"}},
		{"--manifests=/m --nodeport-addresses=192.0.2.0/24 --nodeport-addresses=primary --profiling -v=4 --reset-gone-endpoints=90s", map[string]string{
			"manifests": "/m", "nodeport-addresses": "[192.0.2.0/24,primary]", "profiling": "true", "v": "4", "reset-gone-endpoints": "1m30s",
			"oom-score-adj": "", "conntrack-max-per-core": "0", "conntrack-min": "7"}},
		{"--config=conf --metrics-bind-address=127.0.0.1:1", map[string]string{"config": "conf", "metrics-bind-address": "127.0.0.1:1",
			"kubeconfig": "", "conntrack-min": "7"}},
		{"--kubeconfig=x --service-proxy-name=blue", map[string]string{"metrics-bind-address": "", "conntrack-max-per-core": "0", "oom-score-adj": "-999"}},
		{"--kubeconfig=x --feature-gates=WinDSR=true,AllAlpha=false --ipvs-scheduler=rr --init-only=false --master=https://192.0.2.1:6443/k", map[string]string{
			"feature-gates": "AllAlpha=false,WinDSR=true", "ipvs-scheduler": "rr", "init-only": "false", "master": "https://192.0.2.1:6443/k"}},
	} {
		values := flagsOf(t, strings.Fields(tc.args)...)
		for name, want := range tc.want {
			if got, ok := values[name]; !ok || got != want {
				t.Errorf("%s: --%s is %q, %v, want %q", tc.args, name, got, ok, want)
			}
		}
		var missing []string
		for _, f := range Flags() {
			visible := f.(cli.VisibleFlag).IsVisible()
			_, has := values[f.Names()[0]]
			_, set := tc.want[f.Names()[0]]
			if visible && !has || !visible && has && !set {
				missing = append(missing, f.Names()[0])
			}
		}
		if len(missing) > 0 {
			t.Errorf("%s: a listed flag is missing, or one that is not listed is there without being set: %q", tc.args, missing)
		}
	}
}

// TestFlagValuesWithoutSecrets: no value contains a password or a token, nor the content of a file. The only flag that may contain one
// is --master.
func TestFlagValuesWithoutSecrets(t *testing.T) {
	const secret = "hunter2"
	kubeconfig := t.TempDir() + "/kubeconfig"
	if err := os.WriteFile(kubeconfig, []byte("users: [{user: {token: "+secret+"}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, master := range []string{"https://admin:" + secret + "@192.0.2.1:6443", "admin:" + secret + "@192.0.2.1", secret + "@192.0.2.1",
		"https://192.0.2.1/?token=" + secret, "https://192.0.2.1/#" + secret, "https://admin:" + secret + "@192.0.2.1:%zz"} {
		values := flagsOf(t, "--kubeconfig", kubeconfig, "--master", master)
		if values["master"] != "CLASSIFIED" || values["kubeconfig"] != kubeconfig {
			t.Errorf("%s: %q, %q", master, values["master"], values["kubeconfig"])
		}
		if all := slices.Collect(maps.Values(values)); strings.Contains(strings.Join(all, " "), secret) {
			t.Errorf("%s: the secret is in %q", master, all)
		}
	}
}
