package render

// Action is what becomes of the connections to a frontend.
type Action uint8

// The actions.
const (
	// Refuse answers that there is nobody.
	Refuse Action = iota + 1
	// Drop does not answer.
	Drop
	// ToCluster and ToLocal send them to an endpoint of Selection.Cluster or Selection.Local.
	ToCluster
	ToLocal
	// Split sends those from this node and its pods to Selection.Cluster, all others to Selection.Local; where that is
	// empty these are dropped.
	Split
)

// Why connections are refused, dropped or sent where they are sent.
const (
	AnyEndpoint     Reason = "any endpoint may serve"
	InternalLocally Reason = "internalTrafficPolicy is Local: endpoints of this node alone"
	ExternalLocally Reason = "externalTrafficPolicy is Local: endpoints of this node alone, for those from outside"
)

// RouteOf says what becomes of connections to a frontend of a kind, by the policies of its Service and the endpoints
// selected for it, and why. A Service that nobody serves refuses; one that others serve, but must not be served by them
// here, drops, so that a load balancer or a client tries elsewhere (kube-proxy does the same).
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

// Class is whose source address is replaced by the node's among the connections to a frontend. Endpoints of this node that
// reach themselves are masqueraded in every class: the answer would not come back through the node otherwise.
type MasqueradeClass uint8

// The classes.
const (
	// MasqueradeStrangers replaces the sources that are no pods'.
	MasqueradeNonPods MasqueradeClass = iota + 1
	// MasqueradeNode replaces those of the node itself.
	MasqueradeNodeSource
	// MasqueradeEverybody replaces all.
	MasqueradeAll
)

// Why connections are masqueraded as they are.
const (
	ToClusterIP     Reason = "it came to a cluster IP: pods keep their address, all others could not be answered"
	ToOtherNodes    Reason = "externalTrafficPolicy is Cluster: an endpoint elsewhere must answer by way of this node"
	KeepTheirSource Reason = "externalTrafficPolicy is Local: clients keep their address"
)

// MasqueradeOf says whose source is replaced among connections to a frontend of a kind, and why.
func MasqueradeOf(k Kind, s Service) (MasqueradeClass, Reason) {
	switch {
	case k == ClusterIP:
		return MasqueradeNonPods, ToClusterIP
	case s.ExternalLocal:
		return MasqueradeNodeSource, KeepTheirSource
	}
	return MasqueradeAll, ToOtherNodes
}

// chain is the class's chain of rules.
func (c MasqueradeClass) chain() string {
	switch c {
	case MasqueradeNonPods:
		return MasqueradeClusterChain
	case MasqueradeNodeSource:
		return MasqueradeNodeChain
	}
	return MasqueradeAllChain
}
