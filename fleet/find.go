package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// nameLabel is the label by which the DaemonSets of deploy/nfproxy.yaml and of the chart are found.
const nameLabel = "app.kubernetes.io/name"

// program is the path of nfproxy in its image.
const program = "/nfproxy"

// Query selects the DaemonSet and the nodes.
type Query struct {
	// Namespace is that of the DaemonSet, empty for all namespaces. DaemonSet is its name, empty for the one with the label.
	Namespace, DaemonSet string
	// ServiceProxyName is the instance of nfproxy, as --service-proxy-name of nfproxy run.
	ServiceProxyName string
	// Nodes are the names of the nodes, and Selector is a selector of their labels. Both empty mean all nodes.
	Nodes    []string
	Selector string
}

// Fleet is the nodes on which nfproxy should run.
type Fleet struct {
	// DaemonSet is NAMESPACE/NAME.
	DaemonSet string
	// Targets has each node once, by name.
	Targets []Target
	// NotSelected are the nodes on which the DaemonSet is not to run, by its node selector and its affinity.
	NotSelected []string
}

// Target is where commands for a node run.
type Target struct {
	Node, Namespace, Pod, Container, Image string
	// Program is the path of nfproxy in the container.
	Program string
	// Missing is why no command can run, empty if one can.
	Missing string
	// NotReady describes a node that is not ready.
	NotReady string
}

// suffix returns what is known about a node that does not answer.
func (t Target) suffix() string {
	if t.NotReady == "" {
		return ""
	}
	return "; " + t.NotReady
}

// Find finds the DaemonSet, the nodes and their Pods.
func (c *Client) Find(ctx context.Context, q Query) (Fleet, error) {
	set, err := c.findDaemonSet(ctx, q)
	if err != nil {
		return Fleet{}, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return Fleet{}, fmt.Errorf("DaemonSet %s/%s: selector: %w", set.Namespace, set.Name, err)
	}
	if _, err := labels.Parse(q.Selector); err != nil {
		return Fleet{}, fmt.Errorf("--selector %q: %w", q.Selector, err)
	}
	var pods corev1.PodList
	if err := list(ctx, c.core, "pods", set.Namespace, selector.String(), &pods); err != nil {
		return Fleet{}, err
	}
	var nodes corev1.NodeList
	if err := list(ctx, c.core, "nodes", "", q.Selector, &nodes); err != nil {
		return Fleet{}, err
	}
	f := newFleet(set, nodes.Items, pods.Items, q, time.Now())
	if len(f.Targets) == 0 {
		return f, errors.New("no node is selected: " + cmp.Or(q.description(), "the DaemonSet runs on none"))
	}
	return f, nil
}

// description returns the selection of nodes.
func (q Query) description() string {
	switch {
	case q.Selector != "":
		return fmt.Sprintf("no node of the DaemonSet has the labels %q", q.Selector)
	case len(q.Nodes) > 0:
		return "the DaemonSet does not run on " + strings.Join(q.Nodes, ", ")
	}
	return ""
}

// findDaemonSet returns the DaemonSet.
func (c *Client) findDaemonSet(ctx context.Context, q Query) (*appsv1.DaemonSet, error) {
	label := program[1:]
	if q.ServiceProxyName != "" {
		label += "-" + q.ServiceProxyName // as in the chart
	}
	selector := nameLabel + "=" + label
	if q.DaemonSet != "" {
		selector = ""
	}
	var sets appsv1.DaemonSetList
	if err := list(ctx, c.apps, "daemonsets", q.Namespace, selector, &sets); err != nil {
		if forbidden, ok := errors.AsType[*ForbiddenError](err); ok && q.Namespace == "" {
			return nil, fmt.Errorf("%w; if you have the right in its namespace, name that with -n", forbidden)
		}
		return nil, err
	}
	if q.DaemonSet != "" {
		sets.Items = slices.DeleteFunc(sets.Items, func(s appsv1.DaemonSet) bool { return s.Name != q.DaemonSet })
	}
	return oneDaemonSet(sets.Items, q, selector)
}

// oneDaemonSet returns the only DaemonSet, and an error if there is none or if there are several.
func oneDaemonSet(sets []appsv1.DaemonSet, q Query, selector string) (*appsv1.DaemonSet, error) {
	where := "in any namespace"
	if q.Namespace != "" {
		where = "in namespace " + q.Namespace
	}
	switch {
	case len(sets) == 1:
		return &sets[0], nil
	case len(sets) == 0 && q.DaemonSet != "":
		return nil, fmt.Errorf("there is no DaemonSet %s %s", q.DaemonSet, where)
	case len(sets) == 0:
		return nil, fmt.Errorf("there is no DaemonSet with the label %s %s; -n names another namespace, --daemonset a DaemonSet without the label",
			selector, where)
	}
	var names []string
	for _, s := range sets {
		names = append(names, s.Namespace+"/"+s.Name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("there are several DaemonSets of nfproxy, choose one with -n and --daemonset: %s", strings.Join(names, ", "))
}

// newFleet returns the nodes of a query with their Pods. nodes are those with the labels of its selector.
func newFleet(set *appsv1.DaemonSet, nodes []corev1.Node, pods []corev1.Pod, q Query, now time.Time) Fleet {
	f := Fleet{DaemonSet: set.Namespace + "/" + set.Name}
	required := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: set.Spec.Template.Spec})
	byNode := podsByNode(set, pods)
	known := make(map[string]bool)
	for _, n := range nodes {
		known[n.Name] = true
		if len(q.Nodes) > 0 && !slices.Contains(q.Nodes, n.Name) {
			continue
		}
		pod := byNode[n.Name]
		if fits, err := required.Match(&n); pod == nil && err == nil && !fits {
			f.NotSelected = append(f.NotSelected, n.Name)
			continue
		}
		t := targetOf(pod)
		t.Node, t.Namespace, t.NotReady = n.Name, set.Namespace, notReady(n, now)
		f.Targets = append(f.Targets, t)
	}
	missing := "there is no such node"
	if q.Selector != "" {
		missing += fmt.Sprintf(" with the labels %q", q.Selector)
	}
	for _, name := range q.Nodes {
		if !known[name] {
			known[name] = true
			f.Targets = append(f.Targets, Target{Node: name, Missing: missing})
		}
	}
	slices.SortFunc(f.Targets, func(a, b Target) int { return strings.Compare(a.Node, b.Node) })
	slices.Sort(f.NotSelected)
	return f
}
