package deploy

import (
	"encoding/base64"
	"encoding/xml"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// artifactHubCategories are the categories of packages: "Artifact Hub annotations in Helm Chart.yaml file".
var artifactHubCategories = []string{"ai-machine-learning", "database", "integration-delivery", "monitoring-logging", "networking", "security",
	"storage", "streaming-messaging", "skip-prediction"}

// TestChartMetadata: Chart.yaml has what catalogues of charts show: an icon, which is icon.svg, keywords, maintainers, the licence of the
// image, and the versions of Kubernetes that Helm accepts. -update rewrites the icon.
func TestChartMetadata(t *testing.T) {
	const file = chart + "/Chart.yaml"
	var metadata struct {
		Icon        string
		Keywords    []string
		Maintainers []struct{ Name string }
		Annotations map[string]string
	}
	text := readFile(t, file)
	if err := yaml.Unmarshal([]byte(text), &metadata); err != nil {
		t.Fatal(err)
	}
	svg := readFile(t, chart+"/icon.svg")
	icon := "data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString([]byte(svg))
	if *update {
		text = regexp.MustCompile(`(?m)^icon: .*$`).ReplaceAllString(text, "icon: "+icon)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if metadata.Icon != icon {
		t.Errorf("%s: the icon is not icon.svg; go test ./integration/deploy -run TestChartMetadata -update rewrites it", file)
	}
	if err := xml.Unmarshal([]byte(svg), &struct {
		XMLName xml.Name `xml:"http://www.w3.org/2000/svg svg"`
	}{}); err != nil {
		t.Errorf("icon.svg: %v", err)
	}
	if len(metadata.Keywords) < 3 || len(metadata.Maintainers) == 0 {
		t.Errorf("keywords %q, maintainers %q", metadata.Keywords, metadata.Maintainers)
	}
	licence := regexp.MustCompile(`image\.licenses="(.*)"`).FindStringSubmatch(readFile(t, "Dockerfile"))
	if have := metadata.Annotations["artifacthub.io/license"]; licence == nil || have != licence[1] {
		t.Errorf("artifacthub.io/license %q, Dockerfile %q", have, licence)
	}
	if have := metadata.Annotations["artifacthub.io/category"]; !slices.Contains(artifactHubCategories, have) {
		t.Errorf("artifacthub.io/category %q", have)
	}
}

// TestChartKubeVersion: Helm refuses a cluster without EndpointSlices of discovery.k8s.io/v1, and takes the versions of distributions,
// which have suffixes.
func TestChartKubeVersion(t *testing.T) {
	for version, accepted := range map[string]bool{"v1.20.15": false, "v1.20.15+k3s1": false, "v1.21.0": true, "v1.36.3": true, "v1.37.1+k3s1": true,
		"v1.37.1+rke2r1": true, "v1.33.4-gke.1": true, "v2.0.0": true} {
		_, err := helm(t, "template", "nfproxy", chart, "--set", "apiServer=https://kube-apiserver:6443", "--kube-version", version)
		if accepted != (err == nil) || err != nil && !strings.Contains(err.Error(), "kubeVersion") {
			t.Errorf("%s: accepted %t, want %t: %v", version, err == nil, accepted, err)
		}
	}
}
