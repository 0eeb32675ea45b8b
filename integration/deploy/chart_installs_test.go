package deploy

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
)

// installs fails the test unless helm makes a release of what kubectl apply made of the manifest, new Pods for another
// address of the API server and none for another configuration, and in the end leaves nothing.
func (c *deployment) checkInstall() {
	c.T.Helper()
	for _, o := range cluster.ReadManifest(c.T, manifest) {
		if err := c.Apply(o); err != nil {
			c.T.Fatal(err)
		}
	}
	kubeconfig := c.Kubeconfig(c.AdminConfig())
	release := func(args ...string) {
		c.T.Helper()
		if _, err := helm(c.T, slices.Concat(args, []string{"--namespace", "kube-system", "--kubeconfig", kubeconfig})...); err != nil {
			c.T.Fatal(err)
		}
	}
	const server, other = "apiServer=https://kube-apiserver:6443", "apiServer=https://10.0.0.10:6443"
	release("install", "nfproxy", chart, "--take-ownership", "--force-conflicts", "--set", server)
	pods, configuration := c.installed()
	release("upgrade", "nfproxy", chart, "--set", server, "--set", "config.logging.format=json")
	if p, conf := c.installed(); p != pods || conf == configuration {
		c.T.Errorf("another configuration: the DaemonSet has generation %d after %d, and\n%s", p, pods, conf)
	}
	release("upgrade", "nfproxy", chart, "--set", other)
	if p, _ := c.installed(); p != pods+1 {
		c.T.Errorf("another API server: the DaemonSet has generation %d after %d", p, pods)
	}
	release("uninstall", "nfproxy")
	left, err := c.AppsV1().DaemonSets("").List(c.T.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) > 0 {
		c.T.Errorf("%d DaemonSets are left: %v", len(left.Items), err)
	}
}

// installed returns how often the DaemonSet was changed, and the configuration.
func (c *deployment) installed() (generation int64, configuration string) {
	c.T.Helper()
	set, err := c.AppsV1().DaemonSets("kube-system").Get(c.T.Context(), "nfproxy", metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	files, err := c.CoreV1().ConfigMaps("kube-system").Get(c.T.Context(), "nfproxy", metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return set.Generation, files.Data["config.conf"]
}
