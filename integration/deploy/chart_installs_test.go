package deploy

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"nfproxy/integration/cluster"
)

// checkInstall fails the test unless helm takes over the objects that kubectl apply created from the manifest, replaces the
// Pods when the address of the API server changes but not when another setting does, rolls back, installs a second release with a service proxy
// name, and removes each without the other.
func (c *deployment) checkInstall() {
	c.T.Helper()
	for _, o := range cluster.ReadManifest(c.T, manifest) {
		if err := c.Apply(o); err != nil {
			c.T.Fatal(err)
		}
	}
	kubeconfig := c.Kubeconfig(c.AdminConfig())
	release := func(args ...string) string {
		c.T.Helper()
		out, err := helm(c.T, slices.Concat(args, []string{"--namespace", "kube-system", "--kubeconfig", kubeconfig})...)
		if err != nil {
			c.T.Fatal(err)
		}
		return string(out)
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
	both := []string{"upgrade", "nfproxy", chart, "--set", other, "--set", "updateStrategy.rollingUpdate.maxUnavailable=2"}
	_, err := helm(c.T, slices.Concat(both, []string{"--namespace", "kube-system", "--kubeconfig", kubeconfig})...)
	if err == nil || !strings.Contains(err.Error(), "conflict with") {
		c.T.Errorf("an upgrade changes a field that kubectl apply set: %v", err)
	}
	release(append(both, "--force-conflicts")...)
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
	release("install", "nfproxy", chart, "--set", server)
	c.checkRollback(release, server)
	release("uninstall", "nfproxy")
	if left := c.released(); len(left) > 0 {
		c.T.Errorf("objects after helm uninstall: %v", left)
	}
}

// checkRollback fails the test unless helm undoes an upgrade that changes every kind of object, so that all objects are as before it,
// and refuses an upgrade with invalid values without a change.
func (c *deployment) checkRollback(release func(args ...string) string, server string) {
	c.T.Helper()
	release("upgrade", "nfproxy", chart, "--set", server, "--set", "config.logging.format=json")
	before, revision := c.released(), c.revision(release)
	release("upgrade", "nfproxy", chart, "--set", server, "--set", "clusterCIDR=10.99.0.0/16", "--set", "podLabels.k8s-app=kube-proxy",
		"--set", "updateStrategy.rollingUpdate.maxUnavailable=2", "--set", "serviceAccount.annotations.role=none",
		"--set", "grafanaDashboard.enabled=true", "--set", "podMonitor.enabled=true", "--set", "prometheusRule.enabled=true")
	upgraded := c.released()
	for name, object := range before {
		if object == upgraded[name] && !strings.HasPrefix(name, "ClusterRole") {
			c.T.Errorf("the upgrade does not change %s", name)
		}
	}
	if len(upgraded) != len(before)+3 {
		c.T.Errorf("%d objects after the upgrade, %d before", len(upgraded), len(before))
	}
	release("rollback", "nfproxy", strconv.Itoa(revision))
	if diff := cmp.Diff(before, c.released()); diff != "" {
		c.T.Errorf("objects after a rollback (-before the upgrade +after the rollback):\n%s", diff)
	}
	if again := c.revision(release); again != revision+2 {
		c.T.Errorf("revision %d after a rollback to %d", again, revision)
	}
	kubeconfig := c.Kubeconfig(c.AdminConfig())
	_, err := helm(c.T, "upgrade", "nfproxy", chart, "--set", "apiServer=10.0.0.10", "--namespace", "kube-system", "--kubeconfig", kubeconfig)
	if err == nil || !strings.Contains(err.Error(), "at '/apiServer'") || !cmp.Equal(before, c.released()) {
		c.T.Errorf("an upgrade with an invalid value: %v", err)
	}
}

// revision returns the revision of the release nfproxy that is deployed.
func (c *deployment) revision(release func(args ...string) string) int {
	c.T.Helper()
	var revisions []struct {
		Revision int
		Status   string
	}
	if err := json.Unmarshal([]byte(release("history", "nfproxy", "--output", "json")), &revisions); err != nil {
		c.T.Fatal(err)
	}
	last := revisions[len(revisions)-1]
	if last.Status != "deployed" {
		c.T.Errorf("release %+v", revisions)
	}
	return last.Revision
}

// released returns what the objects of the chart contain, as JSON, by kind and name.
func (c *deployment) released() map[string]string {
	c.T.Helper()
	client, err := dynamic.NewForConfig(c.AdminConfig())
	if err != nil {
		c.T.Fatal(err)
	}
	all := make(map[string]string)
	for _, r := range []schema.GroupVersionResource{{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "serviceaccounts"},
		{Group: "apps", Version: "v1", Resource: "daemonsets"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "monitoring.coreos.com", Version: "v1", Resource: "podmonitors"},
		{Group: "monitoring.coreos.com", Version: "v1", Resource: "prometheusrules"}} {
		list, err := client.Resource(r).List(c.T.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=nfproxy"})
		if err != nil {
			c.T.Fatal(err)
		}
		for _, o := range list.Items {
			name, labels, annotations := o.GetName(), o.GetLabels(), o.GetAnnotations()
			delete(annotations, "deprecated.daemonset.template.generation") // counts changes
			delete(o.Object, "metadata")
			delete(o.Object, "status")
			text, err := json.Marshal([]any{o.Object, labels, annotations})
			if err != nil {
				c.T.Fatal(err)
			}
			all[o.GetKind()+" "+name] = string(text)
		}
	}
	return all
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
