package render

// MasqueradeClass selects the connections to a frontend that are masqueraded: their source address becomes the node's. In every
// class, hairpin connections are masqueraded: the reply of an endpoint to itself would not pass the node otherwise.
type MasqueradeClass uint8

const (
	// MasqueradeNonPods masquerades connections from sources that are not Pods.
	MasqueradeNonPods MasqueradeClass = iota + 1
	// MasqueradeNodeSource masquerades connections from the node itself.
	MasqueradeNodeSource
	// MasqueradeAll masquerades all connections.
	MasqueradeAll
)

// Reasons for masquerade classes.
const (
	ToClusterIP     Reason = "destination is a cluster IP: replies to sources that are not Pods must pass this node"
	ToOtherNodes    Reason = "externalTrafficPolicy is Cluster: an endpoint on another node must reply through this node"
	KeepTheirSource Reason = "externalTrafficPolicy is Local: clients keep their source address"
)

// MasqueradeOf returns the masquerade class of a frontend of a kind, and the reason.
func MasqueradeOf(k Kind, s Service) (MasqueradeClass, Reason) {
	switch {
	case k == ClusterIP:
		return MasqueradeNonPods, ToClusterIP
	case s.ExternalLocal:
		return MasqueradeNodeSource, KeepTheirSource
	}
	return MasqueradeAll, ToOtherNodes
}

// chain returns the name of the chain that masquerades the class.
func (c MasqueradeClass) chain() string {
	switch c {
	case MasqueradeNonPods:
		return MasqueradeClusterChain
	case MasqueradeNodeSource:
		return MasqueradeNodeChain
	}
	return MasqueradeAllChain
}
