package render

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nfproxy/nft"
)

// The names of the sets by which elements are told apart.
const (
	servicesSet    = "services"
	connectionsSet = "connections"
	deliveredSet   = "delivered"
)

// The names of the chains that all Services share, besides base chains and balancing chains. No name is a keyword of nft.
const (
	DispatchChain          = "dispatch"
	RefuseChain            = "refuse"
	SourceRangesChain      = "source-ranges"
	ExternalLocalChain     = "external-local"
	LimitedChain           = "limited"
	ConnectionsChain       = "service-connections"
	DeliveredChain         = "delivered-connections"
	UnallocatedChain       = "unallocated"
	UnservedReceivedChain  = "unserved-received"
	UnservedSentChain      = "unserved-sent"
	MasqueradeClusterChain = "masquerade-cluster"
	MasqueradeNodeChain    = "masquerade-node"
	MasqueradeAllChain     = "masquerade-all"
)

// BalancingChain identifies a chain that chooses among the endpoints of a frontend. All frontends whose numbers of endpoints
// have the same balancingSize share it.
type BalancingChain struct {
	Family nft.Family
	Local  bool // the endpoints are those in LocalEndpoints
	Size   int  // the number of slots to choose from: a balancingSize or, with Hashing, the size of a table
	// Hashing is what a slot follows from. By default it is drawn at random.
	Hashing Hashing
}

// Name returns the name of the chain: lb-K, maglev-client-K or maglev-connection-K, with local- before it if the endpoints are local.
// K is the size.
func (b BalancingChain) Name() string {
	name := balancingKinds[b.Hashing] + strconv.Itoa(b.Size)
	if b.Local {
		return "local-" + name
	}
	return name
}

// balancingKinds are the beginnings of the names of balancing chains, by the Hashing.
var balancingKinds = [...]string{NoHashing: "lb-", HashClients: "maglev-client-", HashConnections: "maglev-connection-"}

// drawing returns the name of the chain that draws one slot for the chain: draw-K or local-draw-K.
func (b BalancingChain) drawing() string {
	if b.Local {
		return fmt.Sprintf("local-draw-%d", b.Size)
	}
	return fmt.Sprintf("draw-%d", b.Size)
}

// IsBalancing reports whether a chain of this name is a balancing chain or draws a slot for one.
func IsBalancing(chain string) bool {
	name := strings.TrimPrefix(chain, "local-")
	begins := func(kind string) bool { return strings.HasPrefix(name, kind) }
	return slices.ContainsFunc(balancingKinds[:], begins) || begins("draw-")
}

// Verdict returns the verdict that goes to the chain.
func (b BalancingChain) Verdict() nft.Verdict { return nft.GotoChain(b.Name()) }

// BalancingChainOf returns the balancing chain that a verdict goes to. It returns false for any other verdict. Earlier versions of
// nfproxy had a chain for each number of endpoints, so that the size can be any number up to MaxEndpoints.
func BalancingChainOf(f nft.Family, v nft.Verdict) (BalancingChain, bool) {
	name, local := strings.CutPrefix(v.Chain, "local-")
	for hashing, kind := range balancingKinds {
		digits, ok := strings.CutPrefix(name, kind)
		size, err := strconv.Atoi(digits)
		if ok && err == nil && v.Kind == nft.Goto && size >= 1 && size <= MaxEndpoints {
			return BalancingChain{f, local, size, Hashing(hashing)}, true
		}
	}
	return BalancingChain{}, false
}

// The names of dedicated objects are one of these, a slash and the affinityID. A map has the name of the chain that looks clients
// up in it; the other chains add clients to a map.
const (
	affinityObject      = "affinity"
	affinityLocalObject = "affinity-local"
)

// recordChains are the names of the chains that record clients: the first one, and the one to which it sends connections from this
// node and its Pods, if it has to tell them apart.
type recordChains struct{ first, fromNode string }

// The chains that record clients, by the frontends whose connections they record: in postrouting, where a masquerade chain follows,
// and in input.
var (
	rememberChains         = recordChains{first: "remember"}
	rememberLocalChains    = recordChains{first: "remember-local"}
	rememberSplitChains    = recordChains{"remember-outside", "remember-node"}
	rememberExternalChains = recordChains{first: "remember-external"}

	learnChains      = recordChains{first: "learn"}
	learnLocalChains = recordChains{first: "learn-local"}
	learnSplitChains = recordChains{"learn-outside", "learn-node"}
)

// affinityID identifies the dedicated objects of one Service port: namespace/name/protocol/port, with the number of a port that
// has no name.
func affinityID(n ServiceName, p Port) string {
	return fmt.Sprintf("%s/%s/%s", n, p.Protocol, cmp.Or(p.Name, strconv.Itoa(int(p.Port))))
}

func dedicatedName(object, id string) string { return object + "/" + id }

// DedicatedName returns the name of a dedicated map or chain, and "" for that of an object that all Services share: those
// contain no slash.
func DedicatedName(name string) string {
	if strings.Contains(name, "/") {
		return name
	}
	return ""
}

// IsLocalAffinity reports whether a verdict goes to a chain of session affinity that sends clients to endpoints of this node
// only.
func IsLocalAffinity(v nft.Verdict) bool {
	return v.Kind == nft.Goto && strings.HasPrefix(v.Chain, dedicatedName(affinityLocalObject, ""))
}

// maxLabel is the length of the longest comment that nft reads (NFTNL_UDATA_COMMENT_MAXLEN). Netlink accepts longer ones, but
// nft could not load its own listing of them.
const maxLabel = 128

// Label returns the comment that names the Service port of a frontend: namespace/name:port, or namespace/name if the port has
// no name or the comment would be too long. namespace/name always fits.
func Label(n ServiceName, port string) string {
	if port == "" {
		return n.String()
	}
	if l := n.String() + ":" + port; len(l) <= maxLabel {
		return l
	}
	return n.String()
}

// ParseLabel is the inverse of Label. It returns false for a comment that Label cannot have written; Kubernetes names consist
// of printable characters.
func ParseLabel(l string) (n ServiceName, port string, ok bool) {
	if strings.ContainsFunc(l, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return n, port, false
	}
	l, port, _ = strings.Cut(l, ":")
	n.Namespace, n.Name, ok = strings.Cut(l, "/")
	return n, port, ok
}

// Kind is what the address of a frontend is to its Service.
type Kind string

// The kinds of frontends. They are the comments of the elements of the connections map.
const (
	ClusterIP    Kind = "ClusterIP"
	ExternalIP   Kind = "ExternalIP"
	LoadBalancer Kind = "LoadBalancer"
	NodePort     Kind = "NodePort"
)

// KindOf returns the kind of a frontend from the comment of its element in the connections map, "" if it has none: only
// frontends at cluster IPs can lack an element.
func KindOf(comment string) Kind { return cmp.Or(Kind(comment), ClusterIP) }
