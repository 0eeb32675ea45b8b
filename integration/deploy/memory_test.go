package deploy

import (
	"os"
	"regexp"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"nfproxy/integration/cluster"
)

// TestMemoryLimit: the DaemonSet and the systemd unit, which both ask the kernel to kill everything else first, limit nfproxy's memory to
// the 1 GiB of docs/deploying.md. TestChartIsTheManifest compares the chart.
func TestMemoryLimit(t *testing.T) {
	const limit = 1 << 30
	var set appsv1.DaemonSet
	cluster.ReadObject(t, manifest, "DaemonSet", &set)
	resources := set.Spec.Template.Spec.Containers[0].Resources
	if got := resources.Limits.Memory().Value(); got != limit {
		t.Errorf("%s limits memory to %d bytes", manifest, got)
	}
	if _, limited := resources.Limits["cpu"]; limited {
		t.Errorf("%s limits the CPU time", manifest)
	}
	for file, pattern := range map[string]string{"deploy/nfproxy.service": `(?m)^MemoryMax=1G$`, "docs/deploying.md": `a limit of 1 GiB of memory`} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(pattern).Match(text) {
			t.Errorf("%s does not contain %s", file, pattern)
		}
	}
}
