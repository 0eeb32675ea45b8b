package deploy

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

const (
	readinessManifest = "deploy/node-readiness.yaml"
	// nodeAPIPort is the port of the API server with the Node authorizer and NodeRestriction, which real clusters have.
	nodeAPIPort = 6444
)

// readinessRule is a NodeReadinessRule.
type readinessRule struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		NodeSelector metav1.LabelSelector `json:"nodeSelector"`
		Conditions   []struct {
			Type           corev1.NodeConditionType `json:"type"`
			RequiredStatus corev1.ConditionStatus   `json:"requiredStatus"`
		} `json:"conditions"`
		Taint           corev1.Taint `json:"taint"`
		EnforcementMode string       `json:"enforcementMode"`
	} `json:"spec"`
}

// TestNodeReadiness: with deploy/node-readiness.yaml, the scheduler places no Pod on a new node until nfproxy is in sync there, and then it
// does. The reporter reports what /readyz answers, with the rights of the manifest, which suffice; they do not suffice for another node or
// for taints, and nfproxy itself has no right to change a Node. The API server, the scheduler and the DaemonSet controller are real; the test
// stands in for the reporter and the controller, with the same requests to the API server.
func TestNodeReadiness(t *testing.T) {
	c := newDeployment(t)
	c.AddAPIServer(nodeAPIPort, controlplane.EtcdURL, "--authorization-mode=Node", "--enable-admission-plugins=NodeRestriction")
	var rule readinessRule
	cluster.ReadObject(t, readinessManifest, "NodeReadinessRule", &rule)
	var set appsv1.DaemonSet
	cluster.ReadObject(t, readinessManifest, "DaemonSet", &set)
	c.applyReadiness()
	c.joinNode(rule.Spec.Taint)
	c.AddNode("node-b")
	c.StartControllerManager()
	c.startScheduler()
	c.createPod("web", "")

	reporter := c.newReporter(&set)
	c.checkReporterRights(reporter)
	go reporter.run(t.Context())
	go c.enforce(t.Context(), rule)
	condition := rule.Spec.Conditions[0].Type
	c.awaitCondition(condition, corev1.ConditionFalse, "connection refused")
	c.awaitUnschedulable("web", rule.Spec.Taint)

	// nfproxy runs, but is not in sync: it may not read anything.
	bindings := c.RbacV1().ClusterRoleBindings()
	binding, err := bindings.Get(t.Context(), "nfproxy", metav1.GetOptions{})
	if err == nil {
		err = bindings.Delete(t.Context(), binding.Name, metav1.DeleteOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	account := c.ServiceAccountConfig("kube-system", "nfproxy")
	cluster.StartDaemon(t, cluster.AgentArgs(c.Kubeconfig(account), cluster.NodeName)...)
	c.awaitCondition(condition, corev1.ConditionFalse, "503")
	c.awaitUnschedulable("web", rule.Spec.Taint)

	binding.ResourceVersion = ""
	if _, err := bindings.Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.awaitCondition(condition, corev1.ConditionTrue, "ready")
	c.awaitPlaced("web")
	nfproxy, err := kubernetes.NewForConfig(account)
	if err != nil {
		t.Fatal(err)
	}
	node := c.node(cluster.NodeName)
	node.Spec.Taints = nil
	if _, err := nfproxy.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("nfproxy changes a Node: %v", err)
	}
	if _, err := nfproxy.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("nfproxy changes the status of a Node: %v", err)
	}
}

// applyReadiness applies the manifest, and before it the API of the rule.
func (c *deployment) applyReadiness() {
	c.T.Helper()
	c.ApplyAll(cluster.ReadManifest(c.T, "integration/deploy/testdata/nodereadinessrule.yaml"))
	for _, o := range cluster.ReadManifest(c.T, readinessManifest) {
		cluster.EventuallyTrue(c.T, "the API server accepts "+o.GetKind(), func() (bool, string) {
			err := c.Apply(o)
			return err == nil, fmt.Sprint(err)
		})
	}
	wrong := cluster.ReadManifest(c.T, readinessManifest)
	i := slices.IndexFunc(wrong, func(o *unstructured.Unstructured) bool { return o.GetKind() == "NodeReadinessRule" })
	if err := unstructured.SetNestedField(wrong[i].Object, "example.org/x", "spec", "taint", "key"); err != nil {
		c.T.Fatal(err)
	}
	if err := c.Apply(wrong[i], metav1.DryRunAll); err == nil {
		c.T.Error("the API server checks no rule")
	}
}

// joinNode gives the cluster's node the taint with which its kubelet would have registered it, and room for Pods.
func (c *deployment) joinNode(taint corev1.Taint) {
	c.T.Helper()
	node := c.node(cluster.NodeName)
	node.Spec.Taints = []corev1.Taint{taint}
	node, err := c.CoreV1().Nodes().Update(c.T.Context(), node, metav1.UpdateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceCPU: resource.MustParse("4"),
		corev1.ResourceMemory: resource.MustParse("8Gi")}
	node.Status.Capacity = node.Status.Allocatable
	if _, err := c.CoreV1().Nodes().UpdateStatus(c.T.Context(), node, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

func (c *deployment) node(name string) *corev1.Node {
	c.T.Helper()
	node, err := c.CoreV1().Nodes().Get(c.T.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return node
}

// startScheduler starts the real kube-scheduler.
func (c *deployment) startScheduler() {
	c.T.Helper()
	path, err := filepath.Abs(".bin/kube-scheduler")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		c.T.Fatalf("kube-scheduler is not built: run `make controlplane` (%v)", err)
	}
	cmd := exec.Command(path, "--kubeconfig="+c.Kubeconfig(c.AdminConfig()), "--leader-elect=false", "--bind-address=127.0.0.1")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	cluster.StartProcess(c.T, cmd)
}

func (c *deployment) createPod(name, node string) {
	c.T.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "none"}}}}
	if _, err := c.CoreV1().Pods("default").Create(c.T.Context(), pod, metav1.CreateOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

// awaitCondition waits until the cluster's node has a condition with a status, and a message that contains a text.
func (c *deployment) awaitCondition(kind corev1.NodeConditionType, status corev1.ConditionStatus, text string) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, fmt.Sprintf("condition %s is %s", kind, status), func() (bool, string) {
		all := c.node(cluster.NodeName).Status.Conditions
		i := slices.IndexFunc(all, func(nc corev1.NodeCondition) bool { return nc.Type == kind })
		return i >= 0 && all[i].Status == status && strings.Contains(all[i].Message, text), fmt.Sprint(all)
	})
}

// awaitUnschedulable waits until the scheduler has found the Pod unschedulable because of a taint.
func (c *deployment) awaitUnschedulable(name string, taint corev1.Taint) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, "the Pod is not schedulable because of "+taint.Key, func() (bool, string) {
		pod, err := c.CoreV1().Pods("default").Get(c.T.Context(), name, metav1.GetOptions{})
		text := fmt.Sprint(err, pod.Spec.NodeName, pod.Status.Conditions)
		return strings.Contains(text, corev1.PodReasonUnschedulable) && strings.Contains(text, "untolerated taint") && pod.Spec.NodeName == "", text
	})
}

// awaitPlaced waits until the scheduler has placed a Pod on the cluster's node.
func (c *deployment) awaitPlaced(name string) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, "the Pod is on the node", func() (bool, string) {
		pod, err := c.CoreV1().Pods("default").Get(c.T.Context(), name, metav1.GetOptions{})
		return err == nil && pod.Spec.NodeName == cluster.NodeName, fmt.Sprint(err, pod.Spec.NodeName, pod.Status.Conditions)
	})
}

// enforce stands in for the controller: for every node that a rule selects, the taint is there until the conditions are met.
func (c *deployment) enforce(ctx context.Context, rule readinessRule) {
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(&rule.Spec.NodeSelector)})
		if err != nil {
			continue // the test ends, or fails later
		}
		for _, node := range nodes.Items {
			met := true
			for _, want := range rule.Spec.Conditions {
				met = met && slices.ContainsFunc(node.Status.Conditions, func(nc corev1.NodeCondition) bool {
					return nc.Type == want.Type && nc.Status == want.RequiredStatus
				})
			}
			i := slices.IndexFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&rule.Spec.Taint) })
			if met && i >= 0 {
				node.Spec.Taints = slices.Delete(node.Spec.Taints, i, i+1)
				_, _ = c.CoreV1().Nodes().Update(ctx, &node, metav1.UpdateOptions{}) // a conflict is tried again
			}
		}
	}
}

// reporter stands in for node-readiness-controller's reporter, with the settings in the container of a DaemonSet.
type reporter struct {
	*kubernetes.Clientset
	config         *rest.Config
	endpoint, node string
	condition      corev1.NodeConditionType
	interval       time.Duration
}

// podOnNode waits until a DaemonSet has a Pod on the cluster's node, and returns it.
func (c *deployment) podOnNode(set *appsv1.DaemonSet) (pod corev1.Pod) {
	c.T.Helper()
	cluster.EventuallyTrue(c.T, "the DaemonSet has a Pod on the node in spite of the taint", func() (bool, string) {
		pods, err := c.CoreV1().Pods(set.Namespace).List(c.T.Context(), metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
		for _, pod = range pods.Items {
			if pod.Spec.NodeName == cluster.NodeName {
				return true, ""
			}
		}
		return false, fmt.Sprint(err, pods.Items)
	})
	return pod
}

// newReporter returns the reporter in the Pod of the DaemonSet on the cluster's node, with the Pod's own token.
func (c *deployment) newReporter(set *appsv1.DaemonSet) *reporter {
	c.T.Helper()
	pod := c.podOnNode(set)
	values := map[string]string{}
	for _, e := range pod.Spec.Containers[0].Env {
		values[e.Name] = e.Value
	}
	interval, err := time.ParseDuration(values["CHECK_INTERVAL"])
	if err != nil || values["IMPERSONATE_NODE"] != "true" {
		c.T.Fatalf("%v in %v", err, values)
	}
	hour := int64(3600)
	token, err := c.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(c.T.Context(), pod.Spec.ServiceAccountName, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	config := c.AdminConfig()
	config.Host, config.CertData, config.KeyData = fmt.Sprintf("https://127.0.0.1:%d", nodeAPIPort), nil, nil
	config.BearerToken = token.Status.Token
	r := &reporter{config: config, endpoint: values["CHECK_ENDPOINT"], node: cluster.NodeName,
		condition: corev1.NodeConditionType(values["CONDITION_TYPE"]), interval: interval}
	r.Clientset = r.as(c.T, "system:node:"+r.node)
	return r
}

// as returns a client that impersonates a user, or none.
func (r *reporter) as(t testing.TB, user string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(r.config)
	config.Impersonate.UserName = user
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// run checks the endpoint and writes the condition, until ctx ends.
func (r *reporter) run(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(r.interval) {
		status, message := corev1.ConditionFalse, ""
		if response, err := http.Get(r.endpoint); err != nil {
			message = err.Error()
		} else {
			response.Body.Close()
			if message = response.Status; response.StatusCode == http.StatusOK {
				status, message = corev1.ConditionTrue, "ready"
			}
		}
		_ = r.write(ctx, r.Clientset, r.node, status, message) // a failure is tried again; the test awaits the condition
	}
}

// write writes the condition of a node.
func (r *reporter) write(ctx context.Context, client *kubernetes.Clientset, name string, status corev1.ConditionStatus, message string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	node.Status.Conditions = slices.DeleteFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == r.condition })
	node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: r.condition, Status: status, Message: message,
		LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()})
	_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// checkReporterRights: the reporter may write the condition of its own node, and nothing else.
func (c *deployment) checkReporterRights(r *reporter) {
	c.T.Helper()
	ctx, unknown := c.T.Context(), corev1.ConditionUnknown
	if err := r.write(ctx, r.Clientset, r.node, unknown, ""); err != nil {
		c.T.Fatalf("the reporter cannot write its condition: %v", err)
	}
	node := c.node(r.node)
	for what, err := range map[string]error{
		"its node without impersonation":         r.write(ctx, r.as(c.T, ""), r.node, unknown, ""),
		"another node":                           r.write(ctx, r.Clientset, "node-b", unknown, ""),
		"another node, as that node":             r.write(ctx, r.as(c.T, "system:node:node-b"), "node-b", unknown, ""),
		"its node, as the administrator":         r.write(ctx, r.as(c.T, "admin"), r.node, unknown, ""),
		"the taints of its node":                 updateTaints(ctx, r.Clientset, node),
		"the taints of its node, as the account": updateTaints(ctx, r.as(c.T, ""), node),
	} {
		if !apierrors.IsForbidden(err) {
			c.T.Errorf("the reporter changes %s: %v", what, err)
		}
	}
}

func updateTaints(ctx context.Context, client *kubernetes.Clientset, node *corev1.Node) error {
	node = node.DeepCopy()
	node.Spec.Taints = nil
	_, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return err
}

// TestStartupTaint: with a startup taint and the commands of docs/deploying.md, run by the real kubectl, no Pod is placed on a new node until
// /readyz answers 200. The test sets the readiness of nfproxy's Pod by that answer, as a kubelet does.
func TestStartupTaint(t *testing.T) {
	c := newDeployment(t)
	taint := corev1.Taint{Key: "startup-taint.cluster-autoscaler.kubernetes.io/nfproxy", Effect: corev1.TaintEffectNoSchedule}
	c.ApplyAll(cluster.ReadManifest(t, manifest))
	c.joinNode(taint)
	c.StartControllerManager()
	c.startScheduler()
	c.createPod("web", "")
	var set appsv1.DaemonSet
	cluster.ReadObject(t, manifest, "DaemonSet", &set)
	pod := c.podOnNode(&set)
	c.awaitUnschedulable("web", taint)
	c.setReady(pod)
	if out, err := c.documentedCommand("kubectl wait", "5m", "2s"); err == nil || !strings.Contains(out, "timed out") {
		t.Errorf("the Pod of nfproxy is ready before it runs: %v\n%s", err, out)
	}
	c.awaitUnschedulable("web", taint)

	cluster.StartDaemon(t, cluster.AgentArgs(c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy")), cluster.NodeName)...)
	cluster.AwaitAnswer(t, 10256, "/readyz", 200, "ok")
	c.setReady(pod)
	for _, command := range []string{"kubectl wait", "kubectl taint"} {
		if out, err := c.documentedCommand(command, "", ""); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	c.awaitPlaced("web")
}

// setReady sets the condition Ready of a Pod by the answer of /readyz.
func (c *deployment) setReady(pod corev1.Pod) {
	c.T.Helper()
	ready := corev1.ConditionFalse
	if status, _ := cluster.Fetch(10256, "/readyz"); status == http.StatusOK {
		ready = corev1.ConditionTrue
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}
	pod.ResourceVersion = ""
	if _, err := c.CoreV1().Pods(pod.Namespace).UpdateStatus(c.T.Context(), &pod, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
}

// documentedCommand runs the command of docs/deploying.md that begins with a text, for the cluster's node, with a text in it replaced.
func (c *deployment) documentedCommand(prefix, old, replacement string) (string, error) {
	c.T.Helper()
	for line := range strings.Lines(readFile(c.T, "docs/deploying.md")) {
		if rest, ok := strings.CutPrefix(line, "    "+prefix+" "); ok && strings.Contains(rest, "NODE") {
			args := strings.Fields(strings.NewReplacer("NODE", cluster.NodeName, old, replacement).Replace(prefix + " " + rest))[1:]
			return cluster.CombinedOutput(".bin/kubectl", append(args, "--kubeconfig="+c.Kubeconfig(c.AdminConfig()))...)
		}
	}
	c.T.Fatalf("docs/deploying.md has no command %q", prefix)
	return "", nil
}
