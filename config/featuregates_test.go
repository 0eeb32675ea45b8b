package config

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/component-base/featuregate"
	logsapi "k8s.io/component-base/logs/api/v1"
	metricsfeatures "k8s.io/component-base/metrics/features"
	zpagesfeatures "k8s.io/component-base/zpages/features"

	"nfproxy/render"
)

// TestFeatureGates: AllowServiceExternalIPs is honoured, a gate without effect gives a warning, and a value that nfproxy does
// not implement is an error.
func TestFeatureGates(t *testing.T) {
	none := render.Allowlist{Only: true}
	cidrs := render.Allowlist{Only: true, Within: prefixes(t, "203.0.113.0/24")}
	for _, tc := range []struct {
		gates string // of the file and of the flag
		args  []string
		want  render.Allowlist
		warn  []string
		err   string
	}{
		{gates: "AllowServiceExternalIPs=false", want: none},
		{gates: "AllowServiceExternalIPs=true"},
		{gates: "AllowServiceExternalIPs=true", args: []string{"--external-ips=none"}, want: none},
		{gates: "AllowServiceExternalIPs=true", args: []string{"--external-ips=203.0.113.0/24"}, want: cidrs},
		{gates: "AllowServiceExternalIPs=false", args: []string{"--external-ips=203.0.113.0/24"}, want: none},
		{gates: "AllowServiceExternalIPs=false", args: []string{"--external-ips=any"}, want: none},
		{gates: "MultiCIDRServiceAllocator=true,PreferSameTrafficDistribution=true,NFTablesProxyMode=true,KubeProxyNFTablesLocalhostNodePorts=false"},
		{gates: "WinDSR=true,AllAlpha=true,SidecarContainers=false", warn: []string{"AllAlpha", "SidecarContainers", "WinDSR"}},
		{gates: "AllowServiceExternalIPs=false,ContextualLogging=false", want: none, warn: []string{"ContextualLogging"}},
		{gates: "MultiCIDRServiceAllocator=false", err: "MultiCIDRServiceAllocator: false is not supported: "},
		{gates: "PreferSameTrafficDistribution=false", err: "PreferSameTrafficDistribution: false is not supported: "},
		{gates: "KubeProxyNFTablesLocalhostNodePorts=true", warn: []string{"KubeProxyNFTablesLocalhostNodePorts"}},
		{gates: "DenyNodePorts=true", err: "DenyNodePorts: true: no feature gate of kube-proxy 1.36 or 1.37 has this name"},
		{gates: "allowServiceExternalIPs=false", err: "allowServiceExternalIPs: false: no feature gate of kube-proxy 1.36 or 1.37 has this name"},
	} {
		t.Run(tc.gates, func(t *testing.T) {
			check := func(place, file string, args []string, warning string) {
				t.Helper()
				s, warnings, err := configured(t, file, append(args, tc.args...)...)
				if tc.err != "" {
					if err == nil || !strings.HasPrefix(err.Error(), place+tc.err) {
						t.Errorf("error %v, want %s%s", err, place, tc.err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				var want []string
				for _, gate := range tc.warn {
					want = append(want, fmt.Sprintf(warning, gate))
				}
				compare(t, warnings, want)
				compare(t, s.Node.ExternalIPs, tc.want)
			}
			fields := strings.NewReplacer("=", ": ", ",", ", ").Replace(tc.gates)
			check("conf: featureGates.", header+"featureGates: {"+fields+"}\nclientConnection: {kubeconfig: x}", nil, "conf featureGates.%s: has no effect")
			check("--feature-gates: ", "", []string{"--kubeconfig=x", "--feature-gates=" + tc.gates}, "--feature-gates: %s has no effect")
		})
	}
}

// TestFeatureGatesFlag: the flag has the syntax of kube-proxy's, and is ignored beside a file as in kube-proxy.
func TestFeatureGatesFlag(t *testing.T) {
	s, warnings, err := configured(t, "", "--kubeconfig=x", "--feature-gates=NFTablesProxyMode=T, AllowServiceExternalIPs = 0", "--feature-gates=,")
	if err != nil || warnings != nil || !s.Node.ExternalIPs.Only {
		t.Error(s.Node.ExternalIPs, warnings, err)
	}
	_, _, err = configured(t, "", "--kubeconfig=x", "--feature-gates=AllowServiceExternalIPs,WinDSR=off")
	want := "--feature-gates: \"AllowServiceExternalIPs\" is not NAME=true or NAME=false\n" +
		"--feature-gates: \"WinDSR=off\" is not NAME=true or NAME=false"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	s, warnings, err = configured(t, header+"clientConnection: {kubeconfig: x}", "--feature-gates=AllowServiceExternalIPs=false")
	if err != nil || s.Node.ExternalIPs.Only {
		t.Error(s.Node.ExternalIPs, err)
	}
	compare(t, warnings, []string{"--feature-gates: ignored because of --config"})
}

// TestFeatureGatesEnvironment: the environment variable restricts the external IPs, too.
func TestFeatureGatesEnvironment(t *testing.T) {
	t.Setenv("NFPROXY_FEATURE_GATES", "AllowServiceExternalIPs=false")
	if s, _, err := configured(t, "", "--kubeconfig=x"); err != nil || !s.Node.ExternalIPs.Only {
		t.Error(s.Node.ExternalIPs, err)
	}
}

// clientGates collects the names of client-go's feature gates.
type clientGates []string

func (g *clientGates) Add(specs map[clientfeatures.Feature]clientfeatures.FeatureSpec) error {
	for name := range specs {
		*g = append(*g, string(name))
	}
	return nil
}

// TestFeatureGatesOfLibraries: the gates that the libraries of Kubernetes add to kube-proxy are known. A newer version of a
// library with a new gate fails here; then the effect of the gate has to be decided.
func TestFeatureGatesOfLibraries(t *testing.T) {
	var names clientGates
	if err := clientfeatures.AddFeaturesToExistingFeatureGates(&names); err != nil {
		t.Fatal(err)
	}
	gates := featuregate.NewFeatureGate()
	for _, add := range []func(featuregate.MutableVersionedFeatureGate) error{
		logsapi.AddFeatureGates, metricsfeatures.AddFeatureGates, zpagesfeatures.AddFeatureGates,
	} {
		if err := add(gates); err != nil {
			t.Fatal(err)
		}
	}
	for name := range gates.GetAll() {
		names = append(names, string(name))
	}
	if len(names) < 15 {
		t.Errorf("found only %d gates: %q", len(names), names)
	}
	for _, name := range names {
		if _, ok := findGate(name); !ok {
			t.Errorf("%s is unknown", name)
		}
	}
}

// TestOtherFeatureGates: the list of the gates of other components is sorted, and contains no gate of the table.
func TestOtherFeatureGates(t *testing.T) {
	names := strings.Fields(otherGates)
	if len(names) < 200 || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("%d names, sorted: %v", len(names), slices.IsSorted(names))
	}
	for _, g := range kubeProxyGates() {
		if slices.Contains(names, g.name) {
			t.Errorf("%s is in both lists", g.name)
		}
	}
}

// TestFeatureGatesDocumented: the table of docs/configuration.md has the rows of kubeProxyGates, with the accepted values and
// the reasons.
func TestFeatureGatesDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Feature gates\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var have, want []string
	for line := range strings.Lines(section) {
		if strings.HasPrefix(line, "| `") {
			have = append(have, strings.TrimSpace(line))
		}
	}
	for _, g := range kubeProxyGates() {
		value := "any"
		if g.only != nil {
			value = fmt.Sprintf("%v; %v is an error", *g.only, !*g.only)
		}
		want = append(want, fmt.Sprintf("| `%s` | %s | %s |", g.name, value, g.why))
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("docs/configuration.md differs (-want +have):\n%s", diff)
	}
}

// TestFeatureGatesOfPages: the gates of /statusz and /flagz, and AllBeta as their default, decide whether there are these pages. None of
// them gives a warning, except AllBeta=true, which is the default.
func TestFeatureGatesOfPages(t *testing.T) {
	for _, tc := range []struct {
		gates          string
		statusz, flagz bool
		warnings       int
	}{
		{"", true, true, 0},
		{"ComponentStatusz=false", false, true, 0},
		{"ComponentFlagz=false", true, false, 0},
		{"ComponentStatusz=true,ComponentFlagz=true", true, true, 0},
		{"AllBeta=false", false, false, 0},
		{"AllBeta=false,ComponentFlagz=true", false, true, 0},
		{"AllBeta=true,ComponentFlagz=false", true, false, 1},
	} {
		s, warnings, err := configured(t, "", "--kubeconfig=x", "--feature-gates="+tc.gates)
		if err != nil || s.Statusz != tc.statusz || s.Flagz != tc.flagz || len(warnings) != tc.warnings {
			t.Errorf("%s: /statusz %v, /flagz %v, warnings %q, %v", tc.gates, s.Statusz, s.Flagz, warnings, err)
		}
	}
}
