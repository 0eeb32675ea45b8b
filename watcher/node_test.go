package watcher

import (
	"net/netip"
	"slices"
	"testing"

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
	external := func(address string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: address}
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
				external("198.51.100.1"), {Type: corev1.NodeHostName, Address: "n1"},
				internal("fd00:1::1"), internal("192.0.2.1"), internal("192.0.2.2"), internal("fd00:1::2"),
			},
			addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("fd00:1::1")},
		},
		{
			name:      "no internal address",
			api:       []corev1.NodeAddress{external("198.51.100.1"), external("198.51.100.2"), {Type: corev1.NodeInternalDNS, Address: "n1.example"}},
			addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
		},
		{
			name:      "an external address of the family without an internal one",
			api:       []corev1.NodeAddress{external("2001:db8::1"), external("198.51.100.1"), internal("192.0.2.1")},
			addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		},
		{
			name:      "an invalid internal address",
			api:       []corev1.NodeAddress{external("198.51.100.1"), internal("x")},
			addresses: []netip.Addr{netip.MustParseAddr("198.51.100.1")},
			problems:  []Problem{{Object: "Node n1", Field: "status.addresses[1].address", Detail: `"x" is not an IP address`}},
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

// TestNodeDescribe: without a Node object the given facts hold; a Node object replaces its part of them.
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

// TestNodePodCIDRs: the podCIDRs of the Node replace the cluster CIDRs if NodeCIDR is set, and only then. Without a Node the
// cluster CIDRs stay.
func TestNodePodCIDRs(t *testing.T) {
	t.Parallel()
	n := reduceNode(&corev1.Node{Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.7/24", "x", "fd00:10:244:1::/64"}}})
	if len(n.problems) != 1 || n.problems[0].Field != "spec.podCIDRs[1]" {
		t.Errorf("problems: %v", n.problems)
	}
	given := render.Node{ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
	if got := n.describe(given); !got.Equal(given) {
		t.Errorf("without NodeCIDR: %v", got)
	}
	given.NodeCIDR = true
	if got := (*node)(nil).describe(given); !slices.Equal(got.ClusterCIDRs, given.ClusterCIDRs) {
		t.Errorf("with NodeCIDR, without a Node: %v", got)
	}
	want := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}
	if got := n.describe(given); !slices.Equal(got.ClusterCIDRs, want) {
		t.Errorf("with NodeCIDR: %v", got)
	}
	if got := (&node{zone: "z1"}).describe(given); got.ClusterCIDRs != nil || got.Zone != "z1" {
		t.Errorf("with NodeCIDR, without podCIDRs: %v", got)
	}
}
