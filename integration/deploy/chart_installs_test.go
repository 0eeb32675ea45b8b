package deploy

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
)

// checkInstall fails the test unless helm takes over the objects that kubectl apply created from the manifest, replaces the
// Pods when the address of the API server changes but not when another setting does, installs a second release with a service proxy
// name, and removes each without the other.
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
		c.T.Errorf("upgrade to another configuration: generation of the DaemonSet %d, want %d; configuration\n%s", p, pods, conf)
	}
	release("upgrade", "nfproxy", chart, "--set", other)
	if p, _ := c.installed(); p != pods+1 {
		c.T.Errorf("upgrade to another API server: generation of the DaemonSet %d, want %d", p, pods+1)
	}
	release("install", "blue", chart, "--set", server, "--set", "serviceProxyName=blue", "--set", "healthzBindAddress=0.0.0.0:10356")
	if all := c.daemonSets(); !slices.Equal(all, []string{"nfproxy", "nfproxy-blue"}) {
		c.T.Errorf("DaemonSets of two releases: %q", all)
	}
	release("uninstall", "nfproxy")
	if all := c.daemonSets(); !slices.Equal(all, []string{"nfproxy-blue"}) {
		c.T.Errorf("DaemonSets after helm uninstall: %q", all)
	}
	release("uninstall", "blue")
	if all := c.daemonSets(); len(all) > 0 {
		c.T.Errorf("DaemonSets after both releases were uninstalled: %q", all)
	}
}

// daemonSets returns the names of all DaemonSets, sorted.
func (c *deployment) daemonSets() (names []string) {
	c.T.Helper()
	all, err := c.AppsV1().DaemonSets("").List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	for _, set := range all.Items {
		names = append(names, set.Name)
	}
	slices.Sort(names)
	return names
}

// installed returns the generation of the DaemonSet, which counts changes of its spec, and the configuration.
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
