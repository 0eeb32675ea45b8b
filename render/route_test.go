package render

import "testing"

// TestRouteOf: the action and its reason for every combination of policies and endpoints.
func TestRouteOf(t *testing.T) {
	one := []Endpoint{hintedEndpoint("1 ready")}
	everywhere := Selection{Cluster: one, Local: one, WhyCluster: ReadyEndpoints, WhyLocal: ReadyEndpoints}
	elsewhere := Selection{Cluster: one, WhyCluster: ReadyEndpoints, WhyLocal: NoEndpointLocal}
	nowhere := Selection{WhyCluster: NoEndpointReady, WhyLocal: NoEndpointLocal}
	cluster, internal, external := Service{}, Service{InternalLocal: true}, Service{ExternalLocal: true}
	for _, c := range []struct {
		kinds    []Kind
		service  Service
		selected Selection
		action   Action
		why      Reason
	}{
		{[]Kind{ClusterIP, NodePort, ExternalIP, LoadBalancer}, cluster, everywhere, ToCluster, AnyEndpoint},
		{[]Kind{ClusterIP, NodePort, ExternalIP, LoadBalancer}, cluster, elsewhere, ToCluster, AnyEndpoint},
		{[]Kind{ClusterIP, NodePort, ExternalIP, LoadBalancer}, cluster, nowhere, Refuse, NoEndpointReady},
		{[]Kind{ClusterIP}, internal, everywhere, ToLocal, InternalLocally},
		{[]Kind{ClusterIP}, internal, elsewhere, Drop, NoEndpointLocal},
		{[]Kind{ClusterIP}, internal, nowhere, Refuse, NoEndpointReady},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, internal, elsewhere, ToCluster, AnyEndpoint},
		{[]Kind{ClusterIP}, external, elsewhere, ToCluster, AnyEndpoint},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, external, everywhere, Split, ExternalLocally},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, external, elsewhere, Split, ExternalLocally},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, external, nowhere, Refuse, NoEndpointReady},
	} {
		for _, k := range c.kinds {
			if action, why := RouteOf(k, c.service, c.selected); action != c.action || why != c.why {
				t.Errorf("%s, internal Local %t, external Local %t, %d endpoints, %d local: action %d, %s; want %d, %s", k, c.service.InternalLocal,
					c.service.ExternalLocal, len(c.selected.Cluster), len(c.selected.Local), action, why, c.action, c.why)
			}
		}
	}
}
