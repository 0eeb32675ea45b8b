package conformance

import (
	"slices"
	"testing"
)

// partNames are the tests that CI runs, without the prefix of all: those that tell most about a service proxy in the least time.
var partNames = []string{
	"Conntrack should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service",
	"Conntrack should be able to preserve UDP traffic when initial unready endpoints get ready",
	"Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service",
	"Conntrack should be able to preserve UDP traffic when server pod cycles for a NodePort service",
	"Conntrack proxy implementation should not be vulnerable to the invalid conntrack state bug [Privileged]",
	"EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices [Conformance]",
	"LoadBalancers [Feature:LoadBalancer] should have session affinity work for LoadBalancer service with Local traffic policy [Slow] [LinuxOnly]",
	"Networking Granular Checks: Services should function for node-Service: udp",
	"Networking Granular Checks: Services should function for pod-Service: http",
	"Networking should check kube-proxy urls",
	"Services should allow pods to hairpin back to themselves through services",
	"Services should be able to create a functioning NodePort service [Conformance]",
	"Services should be able to switch session affinity for NodePort service [LinuxOnly] [Conformance]",
	"Services should be able to up and down services",
	"Services should be able to update service type to NodePort listening on same port number but different protocols",
	"Services should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node",
	"Services should be rejected when no endpoints exist",
	"Services should create endpoints for unready pods",
	"Services should fail health check node port if there are only terminating endpoints",
	"Services should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local",
	"Services should have session affinity timeout work for service with type clusterIP [LinuxOnly]",
	"Services should have session affinity work for service with type clusterIP [LinuxOnly] [Conformance]",
	"Services should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes",
	"Services should implement service.kubernetes.io/service-proxy-name",
	"Services should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false",
	"Services should preserve source pod IP for traffic thru service cluster IP [LinuxOnly]",
	"Services should respect internalTrafficPolicy=Local Pod to Pod",
	"Services should serve endpoints on same port and different protocols [Conformance]",
	"Services should support externalTrafficPolicy=Local for type=NodePort",
	"[Feature:IPv6DualStack] Granular Checks: Services Secondary IP Family [LinuxOnly] should function for client IP based session affinity: http [LinuxOnly]",
	"[Feature:IPv6DualStack] Granular Checks: Services Secondary IP Family [LinuxOnly] should function for node-Service: http",
	"[Feature:IPv6DualStack] Granular Checks: Services Secondary IP Family [LinuxOnly] should function for pod-Service: udp",
	"[Feature:IPv6DualStack] should create service with ipv6,v4 cluster ip",
}

// TestPartNames: the tests of CI have passed in the last complete run.
func TestPartNames(t *testing.T) {
	last := readRecord(t)
	for _, name := range partNames {
		if !slices.ContainsFunc(last.Results, func(r result) bool { return r.Name == sigNetwork+name && r.Outcome == passed }) {
			t.Errorf("no test %q has passed in the last complete run", name)
		}
	}
}

// controlName is a test that must fail without a service proxy, with a message that begins with controlFailure: its Pods run, but do not
// answer at the cluster IP. It asks for no name, and gives up after a minute.
const (
	controlName    = "Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service"
	controlFailure = "Failed to connect to backend"
)
