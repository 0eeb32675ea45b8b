package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// nodes are a cluster with several nodes, of which the first is cluster.NodeName.
type nodes struct {
	*cluster.Cluster
	t    *testing.T
	set  *appsv1.DaemonSet // of deploy/nfproxy.yaml
	byID map[string]*node
}

// node is a node with a daemon and a kubelet's exec endpoint.
type node struct {
	ns      *sandbox.Namespace
	daemon  *cluster.Process
	kubelet *kubelet
}

// newNodes starts a cluster with the DaemonSet of deploy/nfproxy.yaml, without nodes on which it runs.
func newNodes(t *testing.T) *nodes {
	n := &nodes{Cluster: cluster.New(t), t: t, set: new(appsv1.DaemonSet), byID: make(map[string]*node)}
	cluster.ReadObject(t, "deploy/nfproxy.yaml", "DaemonSet", n.set)
	n.set = n.createSet(n.set)
	return n
}

// createSet creates a DaemonSet.
func (n *nodes) createSet(set *appsv1.DaemonSet) *appsv1.DaemonSet {
	n.t.Helper()
	created, err := n.AppsV1().DaemonSets(set.Namespace).Create(n.t.Context(), set, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return created
}

// addHere adds the node in the namespace of the API server.
func (n *nodes) addHere(program string, flags ...string) {
	n.t.Helper()
	here, err := sandbox.Current()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { here.Close() })
	n.start(cluster.NodeName, here, cluster.NodeAddrs[0], program, flags)
}

// addNode adds a node in a namespace of its own, which reaches the API server over a link.
func (n *nodes) addNode(name string, number byte, program string, flags ...string) {
	n.t.Helper()
	hub, err := sandbox.Current()
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { hub.Close() })
	ns, err := sandbox.NewNamespace()
	if err != nil {
		n.t.Fatal(err)
	}
	addr := netip.AddrFrom4([4]byte{192, 0, 2, number})
	network, err := sandbox.NewNetwork(ns, addr)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		if err := errors.Join(network.Close(), ns.Close()); err != nil {
			n.t.Error(err)
		}
	})
	hubEnd := fmt.Sprint("node", number)
	if err := link(hub, ns, hubEnd, addr); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { // the kernel removes a namespace some time after its end, and the next test makes a link of the same name
		if err := unlink(hub, hubEnd); err != nil {
			n.t.Error(err)
		}
	})
	n.AddNode(name, addr)
	n.start(name, ns, addr, program, flags)
}

// unlink removes a link, with both ends.
func unlink(hub *sandbox.Namespace, hubEnd string) error {
	return hub.Do(func() error {
		end, err := netlink.LinkByName(hubEnd)
		if err != nil {
			return err
		}
		return netlink.LinkDel(end)
	})
}

// link adds a link between the API server's namespace and a node.
func link(hub, ns *sandbox.Namespace, hubEnd string, addr netip.Addr) error {
	const nodeEnd = "api0"
	err := ns.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nodeEnd}, PeerName: hubEnd, PeerNamespace: netlink.NsFd(hub.Fd())})
	})
	if err != nil {
		return err
	}
	up := func(name string, source, to netip.Addr) error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: source.AsSlice(),
			Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	}
	there := cluster.NodeAddrs[0]
	return errors.Join(hub.Do(func() error { return up(hubEnd, there, addr) }), ns.Do(func() error { return up(nodeEnd, addr, there) }))
}

// start starts the daemon and the kubelet of a node, and reports its Pod running. program is that of the image.
func (n *nodes) start(name string, ns *sandbox.Namespace, addr netip.Addr, program string, flags []string) {
	n.t.Helper()
	account := n.ServiceAccountConfig("kube-system", "nfproxy")
	account.Host = controlplane.URL(cluster.NodeAddrs[0])
	cmd := exec.Command(path(n.t, program), append(cluster.AgentArgs(n.Kubeconfig(account), name), flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	made := &node{ns: ns, daemon: cluster.StartProcessIn(n.t, ns, cmd), kubelet: serveKubelet(n.t, ns, addr, path(n.t, program))}
	n.byID[name] = made
	n.reachKubelet(name)
	n.addPod(name, n.set, running)
	made.daemon.AwaitLog("in sync")
}

// path returns the path of a program of TestMain.
func path(t *testing.T, program string) string {
	t.Helper()
	at, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// reachKubelet reports the port of a node's kubelet, and that the node is ready.
func (n *nodes) reachKubelet(name string) {
	n.t.Helper()
	object, err := n.CoreV1().Nodes().Get(n.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	object.Status.DaemonEndpoints.KubeletEndpoint.Port = kubeletPort
	object.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if _, err := n.CoreV1().Nodes().UpdateStatus(n.t.Context(), object, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// The states of containers.
var (
	running  = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	crashing = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
)

// addPod creates the Pod of a DaemonSet on a node, as its controller and the kubelet do.
func (n *nodes) addPod(on string, set *appsv1.DaemonSet, state corev1.ContainerState) {
	n.t.Helper()
	pods := n.CoreV1().Pods(set.Namespace)
	pod, err := pods.Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: set.Name + "-" + on, Labels: set.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))}},
		Spec: specOn(set, on),
	}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{Name: "nfproxy", State: state}}}
	if state.Waiting != nil {
		pod.Status.ContainerStatuses[0].RestartCount = 7
	}
	if _, err := pods.UpdateStatus(n.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// specOn returns the specification of a DaemonSet's Pod on a node.
func specOn(set *appsv1.DaemonSet, name string) corev1.PodSpec {
	spec := *set.Spec.Template.Spec.DeepCopy()
	spec.NodeName = name
	return spec
}

// allow gives a user a right in a namespace, or in the cluster if that is empty. The names restrict it to these objects.
func (n *nodes) allow(user, namespace, group, resource, verb string, names ...string) {
	n.t.Helper()
	rules := []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}, ResourceNames: names}}
	meta := metav1.ObjectMeta{GenerateName: "test-"}
	subjects := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}}
	var err error
	if namespace == "" {
		var role *rbacv1.ClusterRole
		if role, err = n.RbacV1().ClusterRoles().Create(n.t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			_, err = n.RbacV1().ClusterRoleBindings().Create(n.t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}}, metav1.CreateOptions{})
		}
	} else {
		var role *rbacv1.Role
		if role, err = n.RbacV1().Roles(namespace).Create(n.t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err == nil {
			_, err = n.RbacV1().RoleBindings(namespace).Create(n.t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects,
				RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name}}, metav1.CreateOptions{})
		}
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// kubectl is a user's workstation.
type kubectl struct {
	t          *testing.T
	kubeconfig string
	interrupt  <-chan struct{} // commands get SIGINT when it has a value
}

// as returns the workstation of a user; admin may do everything.
func (n *nodes) as(user string) kubectl {
	n.t.Helper()
	config := n.AdminConfig()
	if user != "admin" {
		config = n.Config(user)
	}
	return kubectl{n.t, n.Kubeconfig(config), nil}
}

// run runs kubectl nfproxy, and checks the exit code and that the output has each of the texts. It returns the standard output.
func (k kubectl) run(args []string, code int, texts ...string) string {
	k.t.Helper()
	ctx, interrupt := context.WithCancel(k.t.Context())
	defer interrupt()
	go func() {
		select {
		case <-k.interrupt:
			interrupt()
		case <-ctx.Done():
		}
	}()
	cmd := exec.CommandContext(ctx, path(k.t, pluginProgram), append(args, "--kubeconfig="+k.kubeconfig)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), cluster.OutsideEnv+"="+os.Getenv(cluster.OutsideEnv))
	start := time.Now()
	err := cmd.Run()
	all := stdout.String() + stderr.String()
	if got := cmd.ProcessState.ExitCode(); got != code {
		k.t.Errorf("kubectl nfproxy %s: exit code %d, want %d (%v)\n%s", strings.Join(args, " "), got, code, err, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			k.t.Errorf("kubectl nfproxy %s: no %q in\n%s", strings.Join(args, " "), text, all)
		}
	}
	k.t.Logf("kubectl nfproxy %s (%s)\n%s", strings.Join(args, " "), time.Since(start).Round(time.Millisecond), all)
	return stdout.String()
}
