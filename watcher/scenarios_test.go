package watcher

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// scenarios are changes of a cluster for which every source has to return the same Updates.
func scenarios() map[string]func(*testing.T, cluster) {
	return map[string]func(*testing.T, cluster){
		"life of a Service":      testServiceLife,
		"another proxy":          testOtherProxy,
		"headless":               testHeadless,
		"a slice moves":          testSliceMoves,
		"many slices":            testManySlices,
		"changes without effect": testChangesWithoutEffect,
		"unusable objects":       testUnusableObjects,
		"node":                   testNode,
		"eligible":               testEligible,
		"triggered":              testTriggered,
	}
}

func testServiceLife(t *testing.T, c cluster) {
	web, slice := aService("web", "10.96.1.1"), aSlice("web-1", "web", "10.1.0.1")
	w := newWorld(t, c, web)
	w.until("web http 80/tcp")
	w.put(slice)
	w.until("web http 80/tcp 10.1.0.1:8080")
	for _, scaled := range [][]string{{"10.1.0.1", "10.1.0.2", "10.1.0.3"}, {"10.1.0.3"}, nil, {"10.1.0.4"}} {
		w.put(aSlice("web-1", "web", scaled...))
		want := "web http 80/tcp"
		for _, a := range scaled {
			want += " " + a + ":8080"
		}
		w.until(want)
	}
	w.put(with(slice, func(s *discoveryv1.EndpointSlice) {
		s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	}))
	w.until("web http 80/tcp 10.1.0.1:8080!~")
	w.put(with(web, func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }))
	w.until("web http 81/tcp 10.1.0.1:8080!~")
	w.remove(web)
	w.until()
	w.put(web) // its slice still exists
	w.until("web http 80/tcp 10.1.0.1:8080!~")
	w.remove(slice)
	w.until("web http 80/tcp")
}

func testOtherProxy(t *testing.T, c cluster) {
	web := aService("web", "10.96.1.1")
	other := with(web, func(s *corev1.Service) { s.Labels = map[string]string{labelServiceProxyName: ""} })
	w := newWorld(t, c, web, aSlice("web-1", "web", "10.1.0.1"))
	w.until("web http 80/tcp 10.1.0.1:8080")
	w.put(other)
	w.until()
	w.put(with(other, func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }))
	w.quiet()
	w.put(web)
	w.until("web http 80/tcp 10.1.0.1:8080")
}

func testHeadless(t *testing.T, c cluster) {
	w := newWorld(t, c, aService("web", "10.96.1.1"), aService("none", corev1.ClusterIPNone))
	w.until("web http 80/tcp")
	headless := with(aSlice("web-1", "web", "10.1.0.1"), func(s *discoveryv1.EndpointSlice) { s.Labels[corev1.IsHeadlessService] = "" })
	w.put(headless, aSlice("none-1", "none", "10.1.0.1"))
	w.quiet()
	w.put(aSlice("web-1", "web", "10.1.0.1"))
	w.until("web http 80/tcp 10.1.0.1:8080")
	w.put(headless)
	w.until("web http 80/tcp")
}

func testSliceMoves(t *testing.T, c cluster) {
	w := newWorld(t, c, aService("a", "10.96.1.1"), aService("b", "10.96.1.2"), aSlice("x", "a", "10.1.0.1"), aSlice("y", "a", "10.1.0.2"))
	w.until("a http 80/tcp 10.1.0.1:8080 10.1.0.2:8080", "b http 80/tcp")
	w.put(aSlice("x", "b", "10.1.0.1"))
	w.only("a", "b")
	w.until("a http 80/tcp 10.1.0.2:8080", "b http 80/tcp 10.1.0.1:8080")
	w.put(with(aSlice("x", "", "10.1.0.1"), func(s *discoveryv1.EndpointSlice) { s.Labels = nil }))
	w.only("b")
	w.until("a http 80/tcp 10.1.0.2:8080", "b http 80/tcp")
	w.put(aSlice("y", "late", "10.1.0.2"), aService("late", "10.96.1.3"))
	w.until("a http 80/tcp", "b http 80/tcp", "late http 80/tcp 10.1.0.2:8080")
}

func testManySlices(t *testing.T, c cluster) {
	const count, size = 50, 100
	addresses := func(slice int) (all []string) {
		for i := range size {
			all = append(all, fmt.Sprintf("10.2.%d.%d", slice, i))
		}
		return all
	}
	w := newWorld(t, c, aService("big", "10.96.1.1"), aService("other", "10.96.1.2"))
	for i := range count {
		w.put(aSlice(fmt.Sprintf("big-%d", i), "big", addresses(i)...))
	}
	endpoints := func() int { return strings.Count(strings.Join(w.services(), " "), ":8080") }
	for endpoints() < count*size {
		if _, err := w.next(patience); err != nil {
			t.Fatal(err)
		}
	}
	w.put(aSlice("big-7", "big", addresses(7)[1:]...))
	w.only("big")
	if n := endpoints(); n != count*size-1 {
		t.Errorf("%d endpoints", n)
	}
	w.put(aSlice("big-8", "big", append(addresses(8), "10.2.9.0")...)) // an endpoint that moves is in two slices for a while
	w.quiet()
}

func testChangesWithoutEffect(t *testing.T, c cluster) {
	web, slice := aService("web", "10.96.1.1"), aSlice("web-1", "web", "10.1.0.1", "10.1.0.2")
	node := aNode("z1", "192.0.2.1")
	w := newWorld(t, c, web, slice, node)
	w.until("web http 80/tcp 10.1.0.1:8080 10.1.0.2:8080")
	w.put(
		with(web, func(s *corev1.Service) { s.Annotations = map[string]string{"x": "y"} }),
		with(web, func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} }),
		with(slice, func(s *discoveryv1.EndpointSlice) { s.Annotations = at(time.Now().Add(time.Hour)) }),
		with(slice, func(s *discoveryv1.EndpointSlice) { slices.Reverse(s.Endpoints) }),
		with(slice, func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].TargetRef = &corev1.ObjectReference{Name: "pod"} }),
		aSlice("orphan-1", "no-such-service", "10.1.0.1"),
	)
	w.quiet()
	for i := range 3 {
		w.put(with(node, func(n *corev1.Node) {
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue,
				LastHeartbeatTime: metav1.Unix(int64(1700000000+i), 0)}}
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: "n1"})
			n.Labels["x"] = fmt.Sprint(i)
		}))
	}
	w.put(aNode("z2", "192.0.2.1"))
	if update, err := w.next(patience); err != nil || update.Node.Zone != "z2" {
		t.Fatalf("unexpected Update, the zone has not changed: %v, %v", update, err)
	}
}

// testUnusableObjects: objects that the API server accepts and that cannot be used do not affect the others.
func testUnusableObjects(t *testing.T, c cluster) {
	w := newWorld(t, c, aService("web", "10.96.1.1"), aSlice("web-1", "web", "10.1.0.1"))
	w.until("web http 80/tcp 10.1.0.1:8080")
	w.put(
		with(aSlice("web-fqdn", "web"), func(s *discoveryv1.EndpointSlice) {
			s.AddressType, s.Endpoints = discoveryv1.AddressTypeFQDN, []discoveryv1.Endpoint{apiEndpoint("example.com")}
		}),
		with(aSlice("web-any", "web", "10.1.0.2"), func(s *discoveryv1.EndpointSlice) { s.Ports = []discoveryv1.EndpointPort{} }),
		with(aSlice("web-all", "web", "10.1.0.2"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = nil }),
		with(aSlice("web-other", "web", "10.1.0.2"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Name = new("no-such-port") }),
		with(aSlice("web-sctp", "web", "10.1.0.2"), func(s *discoveryv1.EndpointSlice) { s.Ports[0].Protocol = new(corev1.ProtocolSCTP) }),
		with(aService("name", ""), func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}),
	)
	w.quiet()
	w.put(aSlice("web-1", "web", "10.1.0.3"))
	w.until("web http 80/tcp 10.1.0.3:8080")
}

func testNode(t *testing.T, c cluster) {
	w := newWorld(t, c, aNode("z1", "192.0.2.1"), aService("a", "10.96.1.1"), aService("b", "10.96.1.2"))
	w.until("a http 80/tcp", "b http 80/tcp")
	facts := func() string { return fmt.Sprint(w.last.Node.Zone, w.last.Node.Addresses) }
	if got := facts(); got != "z1[192.0.2.1]" || w.last.NotEligible {
		t.Errorf("the node is %s, not eligible %v", got, w.last.NotEligible)
	}
	for _, now := range []struct {
		node *corev1.Node
		want string
	}{
		{aNode("z2", "192.0.2.1"), "z2[192.0.2.1]"},
		{aNode("z2", "192.0.2.2"), "z2[192.0.2.2]"},
		{aNode("z2", "192.0.2.2", "fd00:1::1"), "z2[192.0.2.2 fd00:1::1]"},
	} {
		clear(w.state) // an Update with a changed node has all Services
		w.put(now.node)
		if _, err := w.next(patience); err != nil || facts() != now.want {
			t.Fatalf("the node is %s, want %s, %v", facts(), now.want, err)
		}
		w.until("a http 80/tcp", "b http 80/tcp")
	}
}

func testEligible(t *testing.T, c cluster) {
	node := aNode("z1", "192.0.2.1")
	w := newWorld(t, c, node, aService("web", "10.96.1.1"))
	w.until("web http 80/tcp")
	for range 2 {
		w.put(with(node, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: taintToBeDeleted, Effect: corev1.TaintEffectNoSchedule}}
		}))
		if update := w.only(); !update.NotEligible {
			t.Errorf("with the taint: %v", update)
		}
		w.put(aSlice("web-1", "web", "10.1.0.1"))
		if update := w.only("web"); !update.NotEligible {
			t.Errorf("after another change: %v", update)
		}
		w.put(node)
		if update := w.only(); update.NotEligible {
			t.Errorf("without the taint: %v", update)
		}
		w.put(aSlice("web-1", "web"))
		w.only("web")
	}
}

func testTriggered(t *testing.T, c cluster) {
	triggered := func(name string, when time.Time, addresses ...string) *discoveryv1.EndpointSlice {
		return with(aSlice(name, "web", addresses...), func(s *discoveryv1.EndpointSlice) { s.Annotations = at(when) })
	}
	w := newWorld(t, c, aService("web", "10.96.1.1"), triggered("web-1", time.Now().Add(time.Hour), "10.1.0.1"))
	w.until("web http 80/tcp 10.1.0.1:8080")
	now := time.Now().Add(time.Minute).UTC()
	for _, step := range []struct {
		slice *discoveryv1.EndpointSlice
		want  []time.Time
	}{
		{triggered("web-1", now, "10.1.0.2"), []time.Time{now}},
		{aSlice("web-1", "web", "10.1.0.3"), nil},
		{triggered("web-1", now.Add(-time.Hour), "10.1.0.4"), nil}, // before the source was opened
		{with(aSlice("web-1", "web", "10.1.0.5"), func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "noon"}
		}), nil},
		{triggered("web-2", now.Add(time.Second), "10.1.0.6"), []time.Time{now.Add(time.Second)}},
	} {
		w.put(step.slice)
		if got := w.only("web").Triggered; !slices.EqualFunc(got, step.want, time.Time.Equal) {
			t.Errorf("triggered %v, want %v", got, step.want)
		}
	}
	w.put(with(aService("web", "10.96.1.1"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 }))
	if got := w.only("web").Triggered; got != nil {
		t.Errorf("trigger times of a change of the Service: %v", got)
	}
	w.put(triggered("web-1", now.Add(2*time.Second), "10.1.0.5")) // with the same endpoints
	w.quiet()
}
