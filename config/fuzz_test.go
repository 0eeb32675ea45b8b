package config

import (
	"flag"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"
)

// FuzzConfig: whatever a KubeProxyConfiguration contains, it is read with a result or with errors; and the effective
// configuration of a result, read as a file, has the same result and no unknown field.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(kubeadm))
	f.Add([]byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\nnodePortAddresses: [primary, 10.0.0.0/8]\n" +
		"featureGates: {AllAlpha: true}\nconntrack: {min: 1, tcpCloseWaitTimeout: 1h0m0s}\ndetectLocalMode: InterfaceNamePrefix\n" +
		"detectLocal: {interfaceNamePrefix: veth}\noomScoreAdj: -5\nlogging: {format: json, verbosity: 3}\n"))
	f.Add([]byte(`{"apiVersion":"kubeproxy.config.k8s.io/v1alpha1","kind":"KubeProxyConfiguration","bindAddress":"::1","metricsBindAddress":"[::1]:1","healthzBindAddress":"","clusterCIDR":"fd00::/48,10.0.0.0/8","conntrack":{"maxPerCore":0,"udpTimeout":"5s"},"nftables":{"masqueradeAll":true,"minSyncPeriod":"1s"}}`))
	f.Add([]byte("a: &a [*a, *a]\n---\nkind: 1\n"))
	f.Add([]byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\"\": 1\nconntrack: {\"\": 1}\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		s, warnings, err := fromFile(t, file)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without a text")
			}
			return
		}
		for _, w := range warnings {
			if w.What == "" || w.Setting == "" {
				t.Errorf("warning %+v", w)
			}
		}
		effective, err := yaml.Marshal(s.Effective)
		if err != nil {
			t.Fatal(err)
		}
		again, warned, err := fromFile(t, effective)
		if err != nil {
			t.Fatalf("%v\nin the effective configuration\n%s", err, effective)
		}
		compare(t, again, s)
		if i := slices.IndexFunc(warned, func(w Warning) bool { return w.What == "unknown field" }); i >= 0 {
			t.Errorf("warning %+v about the effective configuration", warned[i])
		}
		if diff := cmp.Diff(s.Effective, again.Effective); diff != "" {
			t.Errorf("the effective configuration (-want +got):\n%s", diff)
		}
	})
}

// fromFile returns the result of FromCLI for a file alone.
func fromFile(t *testing.T, file []byte) (Settings, []Warning, error) {
	t.Helper()
	set := flag.NewFlagSet("run", flag.ContinueOnError)
	for _, option := range Flags() {
		if err := option.Apply(set); err != nil {
			t.Fatal(err)
		}
	}
	if err := set.Parse([]string{"--config", "conf", "--manifests", "manifests"}); err != nil {
		t.Fatal(err)
	}
	return FromCLI(cli.NewContext(cli.NewApp(), set, nil), file)
}
