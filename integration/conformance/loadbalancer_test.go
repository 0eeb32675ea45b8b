//go:build linux

package conformance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cleanupFinalizer keeps a Service of type LoadBalancer until its load balancer is gone, as service controllers of clouds set it.
const cleanupFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// loadBalancers stands in for the load balancers of a cloud. Each Service of type LoadBalancer gets an address, and the control plane's
// namespace, where the tests' clients are, routes it over the nodes: over all of them, or for externalTrafficPolicy Local over those whose
// health check node port answers 200. Packets reach the nodes with the address of the load balancer as destination (ipMode VIP).
type loadBalancers struct {
	*testCluster
	addrs map[types.UID]netip.Addr
	hops  map[types.UID][]string // of the present route
	next  byte
}

// runLoadBalancers starts the load balancers, which end with the test.
func (c *testCluster) runLoadBalancers() {
	c.t.Helper()
	l := &loadBalancers{testCluster: c, addrs: make(map[types.UID]netip.Addr), hops: make(map[types.UID][]string)}
	ctx, cancel := context.WithCancel(c.t.Context())
	done := make(chan struct{})
	c.t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(500 * time.Millisecond) {
			services, err := c.CoreV1().Services("").List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range services.Items {
				if err := l.balance(ctx, &services.Items[i]); err != nil && ctx.Err() == nil {
					c.t.Logf("load balancer of %s/%s, which is tried again: %v", services.Items[i].Namespace, services.Items[i].Name, err)
				}
			}
		}
	}()
}

// balance brings the load balancer of a Service to the state that its spec asks for.
func (l *loadBalancers) balance(ctx context.Context, s *corev1.Service) error {
	wanted := s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil && s.DeletionTimestamp == nil
	switch {
	case wanted:
		return l.provide(ctx, s)
	case slices.Contains(s.Finalizers, cleanupFinalizer):
		return l.withdraw(ctx, s)
	}
	return nil
}

// provide routes the Service's address and writes it to the status.
func (l *loadBalancers) provide(ctx context.Context, s *corev1.Service) error {
	addr, ok := l.addrs[s.UID]
	if !ok {
		l.next = l.next%250 + 1
		addr = netip.AddrFrom4([4]byte{172, 31, 0, l.next})
		l.addrs[s.UID] = addr
	}
	if err := l.route(s.UID, addr, l.healthyNodes(ctx, s)); err != nil {
		return err
	}
	if !slices.Contains(s.Finalizers, cleanupFinalizer) {
		s.Finalizers = append(s.Finalizers, cleanupFinalizer)
		var err error
		if s, err = l.CoreV1().Services(s.Namespace).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if in := s.Status.LoadBalancer.Ingress; len(in) == 1 && in[0].IP == addr.String() {
		return nil
	}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: addr.String()}}
	_, err := l.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{})
	return err
}

// withdraw removes the route, the status and the finalizer.
func (l *loadBalancers) withdraw(ctx context.Context, s *corev1.Service) error {
	if addr, ok := l.addrs[s.UID]; ok {
		if err := l.route(s.UID, addr, nil); err != nil {
			return err
		}
	}
	if len(s.Status.LoadBalancer.Ingress) > 0 {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		var err error
		if s, err = l.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{}); err != nil {
			return ignoreNotFound(err)
		}
	}
	s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == cleanupFinalizer })
	_, err := l.CoreV1().Services(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if ignoreNotFound(err) == nil {
		delete(l.addrs, s.UID)
		delete(l.hops, s.UID)
	}
	return ignoreNotFound(err)
}

// healthyNodes returns the nodes that get the connections of a Service. With session affinity it is one node: there is one client.
func (l *loadBalancers) healthyNodes(ctx context.Context, s *corev1.Service) []string {
	var hops []string
	for i := range l.net.nodes {
		addr := nodeAddr(i + 1).v4
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !l.healthy(ctx, addr, s.Spec.HealthCheckNodePort) {
			continue
		}
		hops = append(hops, addr.String())
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && len(hops) > 1 {
		hops = hops[:1]
	}
	return hops
}

// healthy reports whether a health check node port answers 200.
func (l *loadBalancers) healthy(ctx context.Context, node netip.Addr, port int32) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	transport := &http.Transport{DialContext: l.dialControl, DisableKeepAlives: true}
	url := "http://" + net.JoinHostPort(node.String(), fmt.Sprint(port))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// route routes an address over nodes, or not at all, from the address of the external client.
func (l *loadBalancers) route(uid types.UID, addr netip.Addr, hops []string) error {
	now, routed := l.hops[uid]
	if routed && slices.Equal(now, hops) {
		return nil
	}
	var err error
	if len(hops) > 0 {
		next := strings.Fields("nexthop via " + strings.Join(hops, " nexthop via "))
		err = l.net.control.Run("", "ip", append([]string{"route", "replace", addr.String(), "src", external.v4.String()}, next...)...)
	} else if len(now) > 0 {
		err = l.net.control.Run("", "ip", "route", "del", addr.String())
	}
	if err == nil {
		l.hops[uid] = hops
	}
	return err
}
