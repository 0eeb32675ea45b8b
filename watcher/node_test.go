package watcher

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/render"
)

func TestReduceNode(t *testing.T) {
	t.Parallel()
	internal := func(address string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address}
	}
	tests := []struct {
		name      string
		zone      string
		api       []corev1.NodeAddress
		addresses []netip.Addr
		problems  []Problem
	}{
		{name: "nothing"},
		{name: "zone", zone: "a"},
		{
			name: "first of each family",
			api: []corev1.NodeAddress{
				{Type: corev1.NodeExternalIP, Address: "198.51.100.1"}, {Type: corev1.NodeHostName, Address: "n1"},
				internal("fd00:1::1"), internal("192.0.2.1"), internal("192.0.2.2"), internal("fd00:1::2"),
			},
			addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00:1::1")},
		},
		{
			name: "no internal address",
			api:  []corev1.NodeAddress{{Type: corev1.NodeExternalIP, Address: "198.51.100.1"}, {Type: corev1.NodeInternalDNS, Address: "n1.example"}},
		},
		{
			name:      "IPv6 alone",
			api:       []corev1.NodeAddress{internal("fd00:1::1"), internal("::ffff:192.0.2.1")},
			addresses: []netip.Addr{netip.MustParseAddr("fd00:1::1")},
			problems: []Problem{
				{Object: "Node n1", Field: "status.addresses[1].address", Detail: `"::ffff:192.0.2.1" is an IPv4 address written as IPv6`},
			},
		},
		{
			name:      "invalid",
			api:       []corev1.NodeAddress{internal("x"), internal("127.0.0.1"), internal("192.0.2.1")},
			addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			problems: []Problem{
				{Object: "Node n1", Field: "status.addresses[0].address", Detail: `"x" is not an IP address`},
				{Object: "Node n1", Field: "status.addresses[1].address", Detail: "127.0.0.1 is a loopback address"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			api := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: tt.api}}
			if tt.zone != "" {
				api.Labels = map[string]string{corev1.LabelTopologyZone: tt.zone}
			}
			got := reduceNode(api)
			if got.zone != tt.zone {
				t.Errorf("zone is %q", got.zone)
			}
			if diff := cmp.Diff(tt.addresses, got.addresses, compare); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, got.problems, compare); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func nodeYAML(name, zone string, addresses ...string) string {
	text := "apiVersion: v1\nkind: Node\nmetadata:\n  name: " + name + "\n  labels: {topology.kubernetes.io/zone: " + zone + "}\n" +
		"status:\n  addresses:\n  - {type: Hostname, address: " + name + "}\n"
	for _, a := range addresses {
		text += "  - {type: InternalIP, address: " + a + "}\n"
	}
	return text
}

// node takes an Update and fails unless it has the node's facts and the Services, and removes none.
func (d *tester) node(zone, addresses string, services ...string) {
	d.Helper()
	update, err := d.next(10 * time.Second)
	if err != nil {
		d.Fatalf("%v; log:\n%s", err, strings.Join(d.log.Lines(), ""))
	}
	var texts, names []string
	for _, a := range update.Node.Addresses {
		texts = append(texts, a.String())
	}
	for _, s := range update.Services {
		names = append(names, s.Name)
	}
	n := update.Node
	if n.Name != "n1" || n.Zone != zone || strings.Join(texts, " ") != addresses || !slices.Equal(names, services) || update.Removed != nil {
		d.Fatalf("an Update with %v, want zone %q, addresses %q, Services %v", update, zone, addresses, services)
	}
}

func TestDirNode(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) {
		writeFile(t, filepath.Join(path, "s.yaml"), serviceYAML("b", "10.96.0.2")+"---\n"+serviceYAML("a", "10.96.0.1"))
	})
	d.write("n1.yaml", nodeYAML("n1", "z1", "fd00:1::1", "192.0.2.1"))
	d.node("z1", "192.0.2.1 fd00:1::1", "a", "b")
	d.write("n1.yaml", nodeYAML("n1", "z2", "192.0.2.1", "fd00:1::1"))
	d.node("z2", "192.0.2.1 fd00:1::1", "a", "b")
	d.write("n1.yaml", nodeYAML("n1", "z2", "192.0.2.9"))
	d.node("z2", "192.0.2.9", "a", "b")
	for _, text := range []string{
		"# a comment\n" + nodeYAML("n1", "z2", "192.0.2.9"),
		nodeYAML("n1", "z2", "192.0.2.9", "192.0.2.10"),
		nodeYAML("n1", "z2", "192.0.2.9") + "spec: {unschedulable: true}\n",
		nodeYAML("n1", "z2", "192.0.2.9") + "---\n" + nodeYAML("n2", "z3", "192.0.2.12"),
	} {
		d.write("n1.yaml", text)
		d.quiet()
	}
	d.write("s2.yaml", serviceYAML("c", "10.96.0.3")) // and a Service comes alone
	d.node("z2", "192.0.2.9", "c")
	d.must(os.Rename(filepath.Join(d.path, "n1.yaml"), filepath.Join(d.path, "n2.yaml")))
	d.quiet()
	d.remove("n2.yaml")
	d.node("", "", "a", "b", "c")
	d.until("a "+plain, "b "+plain, "c "+plain)
}

// Without any Service a Node is news all the same.
func TestDirNodeAlone(t *testing.T) {
	t.Parallel()
	d := newTester(t, nil)
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1"))
	d.node("z1", "192.0.2.1")
	d.write("n1.yaml", "# nothing\n")
	d.node("", "")
}

// A Service that changes together with the Node comes once, as it is now, and one that goes is removed.
func TestDirNodeWithServices(t *testing.T) {
	t.Parallel()
	all := serviceYAML("a", "10.96.0.1") + "---\n" + serviceYAML("b", "10.96.0.2") + "---\n" + serviceYAML("c", "10.96.0.3")
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "all.yaml"), all) })
	edited := strings.Replace(serviceYAML("a", "10.96.0.1"), "80", "81", 1) + "---\n" + serviceYAML("b", "10.96.0.2")
	d.write("all.yaml", edited+"---\n"+nodeYAML("n1", "z1"))
	update, err := d.next(10 * time.Second)
	d.must(err)
	if len(update.Services) != 2 || len(update.Removed) != 1 || update.Node.Zone != "z1" {
		t.Errorf("an Update with %v", update)
	}
	d.until("a  81/tcp", "b "+plain)
}

func TestDirNodeKeepsLastGood(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1", "x"))
	d.node("z1", "192.0.2.1", "a")
	d.logged(1, "level=WARN", `object="Node n1"`, "field=status.addresses[2].address", "is not an IP address")
	d.write("n1.yaml", strings.Replace(nodeYAML("n1", "z2"), "status", "statuss", 1))
	d.quiet()
	d.logged(1, "level=ERROR", `object="Node n1"`, "field=statuss")
	d.write("n1.yaml", nodeYAML("n1", "z1", "192.0.2.1", "x"))
	d.quiet()
	d.logged(1, "level=WARN")
}

func TestDirNodeInTwoFiles(t *testing.T) {
	t.Parallel()
	d := newTester(t, func(path string) { writeFile(t, filepath.Join(path, "a.yaml"), serviceYAML("a", "10.96.0.1")) })
	d.write("n1.yaml", nodeYAML("n1", "z1"))
	d.node("z1", "", "a")
	d.write("n2.yaml", nodeYAML("n1", "z2"))
	d.quiet()
	d.logged(1, "level=WARN", "more than one file", `object="Node n1"`, "used=n1.yaml")
	d.remove("n1.yaml")
	d.node("z2", "", "a")
}

// The node's facts are those given while there is no Node to give others.
func TestNodeDescribe(t *testing.T) {
	t.Parallel()
	given := render.Node{Name: "n1", Zone: "z0", MasqueradeAll: true}
	if got := (*node)(nil).describe(given); got.Zone != "z0" || !got.MasqueradeAll {
		t.Errorf("without a Node: %v", got)
	}
	if got := (&node{zone: "z1"}).describe(given); got.Zone != "z1" || !got.MasqueradeAll || given.Zone != "z0" {
		t.Errorf("with a Node: %v", got)
	}
}

// With NodeCIDR, and only then, the Node's podCIDRs say where its pods are.
func TestNodePodCIDRs(t *testing.T) {
	t.Parallel()
	n := reduceNode(&corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.7/24", "x", "fd00:10:244:1::/64"}}})
	if len(n.problems) != 1 || n.problems[0].Field != "spec.podCIDRs[1]" {
		t.Errorf("problems: %v", n.problems)
	}
	given := render.Node{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if got := n.describe(given); !got.Equal(given) {
		t.Errorf("not asked for: %v", got)
	}
	given.NodeCIDR = true
	want := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	if got := n.describe(given); !slices.Equal(got.ClusterCIDRs, want) {
		t.Errorf("asked for: %v", got)
	}
	if got := (&node{zone: "z1"}).describe(given); got.ClusterCIDRs != nil || got.Zone != "z1" {
		t.Errorf("asked for, and there are none: %v", got)
	}
}
