package render

// Action is what the tables do with the connections to a frontend.
type Action uint8

const (
	// Refuse sends an error to the client.
	Refuse Action = iota + 1
	// Drop drops packets without an answer.
	Drop
	// ToCluster and ToLocal send connections to an endpoint of Selection.Cluster or Selection.Local.
	ToCluster
	ToLocal
	// Split sends connections from this node and its Pods to Selection.Cluster, all others to Selection.Local. If Local is
	// empty, those are dropped.
	Split
)

// Reasons for actions, besides those of Selection.
const (
	AnyEndpoint     Reason = "any endpoint may serve"
	InternalLocally Reason = "internalTrafficPolicy is Local: only endpoints on this node"
	ExternalLocally Reason = "externalTrafficPolicy is Local: external clients reach only endpoints on this node"
)

// RouteOf returns the action for a frontend of a kind, by the policies of its Service and the endpoints selected for it, and the
// reason. A Service without any usable endpoint refuses connections. A Service whose policy is Local and whose usable
// endpoints are all on other nodes drops them, so that a load balancer or a client tries elsewhere (kube-proxy does the same).
func RouteOf(k Kind, s Service, selected Selection) (Action, Reason) {
	switch {
	case len(selected.Cluster) == 0:
		return Refuse, selected.WhyCluster
	case k == ClusterIP && s.InternalLocal && len(selected.Local) == 0:
		return Drop, selected.WhyLocal
	case k == ClusterIP && s.InternalLocal:
		return ToLocal, InternalLocally
	case k != ClusterIP && s.ExternalLocal:
		return Split, ExternalLocally
	}
	return ToCluster, AnyEndpoint
}
