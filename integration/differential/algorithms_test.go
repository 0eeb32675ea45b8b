package differential

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// This file is a model of weights and of consistent hashing, written from docs/algorithms.md, the paper that it names, and
// include/linux/jhash.h. kube-proxy knows neither: it is shown the cluster without the endpoints of weight 0 (view_test.go), and tells which
// endpoints may serve; the model tells which of them a client must reach. The model shares no code with nfproxy.

// tableSize is the number of slots of nfproxy's tables in these tests.
const tableSize = 251

// hashSeed is the seed of the hash.
const hashSeed = 0x6e667078

// weightOf returns the weight that the annotations of an EndpointSlice give its endpoints.
func weightOf(annotations map[string]string) int {
	text, ok := annotations["nfproxy.io/weight"]
	if !ok {
		text, ok = annotations["service.cilium.io/weight"]
	}
	weight, err := strconv.Atoi(text)
	if !ok || err != nil || weight < 0 || weight > 1000 {
		return 1
	}
	return weight
}

// hashOf returns what the frontends of a Service hash: "client", "connection", or nothing.
func hashOf(v *corev1.Service) string {
	algorithm, ok := v.Annotations["nfproxy.io/lb-algorithm"]
	if !ok {
		algorithm = v.Annotations["service.cilium.io/lb-algorithm"]
	}
	switch {
	case algorithm != "maglev":
		return ""
	case v.Annotations["nfproxy.io/hash-on"] == "connection":
		return "connection"
	}
	return "client"
}

// weightsOf returns the weights of a target's endpoints. The smaller one holds if EndpointSlices disagree.
func (s state) weightsOf(t *target) map[netip.AddrPort]int {
	weights := make(map[netip.AddrPort]int)
	for _, e := range s.endpointsOf(t) {
		at := netip.MustParseAddrPort(e.at)
		if old, ok := weights[at]; !ok || e.weight < old {
			weights[at] = e.weight
		}
	}
	return weights
}

// share is an endpoint and its weight.
type share struct {
	at     netip.AddrPort
	weight int
}

// maglevTable returns the endpoint of each slot. The shares are sorted by address.
func maglevTable(shares []share) [tableSize]netip.AddrPort {
	var table [tableSize]netip.AddrPort
	largest := slices.MaxFunc(shares, func(a, b share) int { return cmp.Compare(a.weight, b.weight) }).weight
	turns, steps := make([]int, len(shares)), make([]int, len(shares)) // taken; of the permutation
	for filled, round := 0, 1; ; round++ {
		for i, s := range shares {
			if round*s.weight < turns[i]*largest {
				continue
			}
			turns[i]++
			for {
				slot := permutation(s.at, steps[i])
				if steps[i]++; !table[slot].IsValid() {
					table[slot] = s.at
					break
				}
			}
			if filled++; filled == tableSize {
				return table
			}
		}
	}
}

// permutation returns the slot at a place of an endpoint's permutation.
func permutation(at netip.AddrPort, place int) uint64 {
	key := append(at.Addr().AsSlice(), byte(at.Port()), byte(at.Port()>>8))
	sum := sha256.Sum256(key)
	offset := binary.BigEndian.Uint64(sum[:8]) % tableSize
	skip := binary.BigEndian.Uint64(sum[8:16])%(tableSize-1) + 1
	return (offset + uint64(place)*skip) % tableSize
}

// slotOf returns the slot of a client, or of its connection.
func slotOf(hash string, from netip.AddrPort) uint32 {
	key := from.Addr().AsSlice()
	if hash == "connection" {
		key = append(key, byte(from.Port()>>8), byte(from.Port()), 0, 0)
	}
	return uint32(uint64(jhash(key)) * tableSize >> 32)
}

// jhash is the hash of the same name in include/linux/jhash.h: on little-endian machines, words of four bytes.
func jhash(key []byte) uint32 {
	var words []uint32
	for i := 0; i < len(key); i += 4 {
		words = append(words, binary.LittleEndian.Uint32(key[i:]))
	}
	var s [3]uint32
	for i := range s {
		s[i] = 0xdeadbeef + uint32(len(key)) + hashSeed
	}
	for ; len(words) > 3; words = words[3:] {
		for i := range s {
			s[i] += words[i]
		}
		for i, shift := range []int{4, 6, 8, 16, 19, 4} { // __jhash_mix
			a, b, c := i%3, (i+1)%3, (i+2)%3
			s[a] = s[a] - s[c] ^ bits.RotateLeft32(s[c], shift)
			s[c] += s[b]
		}
	}
	for i, word := range words {
		s[i] += word
	}
	for i, shift := range []int{14, 11, 25, 16, 4, 14, 24} { // __jhash_final
		to, from := (2+i)%3, (1+i)%3
		s[to] = s[to] ^ s[from] - bits.RotateLeft32(s[from], shift)
	}
	return s[2]
}

// arrival is a connection that a server answered.
type arrival struct {
	from     netip.AddrPort
	endpoint string
}

// differs compares what the proxies did with probes, and returns two texts if they differ. At a target that hashes, kube-proxy tells
// which outcomes there can be, and the model where each client must be.
func (a *arena) differs(q question, k, n observation) (kubeProxy, nfproxy string, differ bool) {
	kubeProxy, nfproxy = k.outcomes[q].String(), n.outcomes[q].String()
	if q.target.hash == "" {
		return kubeProxy, nfproxy, kubeProxy != nfproxy
	}
	for text := range n.outcomes[q] {
		if !k.outcomes[q][text] {
			return kubeProxy, nfproxy, true
		}
	}
	if len(n.outcomes[q]) == 0 {
		return kubeProxy, nfproxy, len(k.outcomes[q]) > 0
	}
	table, ok := a.tableOf(q, k)
	if !ok {
		return kubeProxy, nfproxy, false
	}
	for _, one := range n.arrivals[q] {
		if want := table[slotOf(q.target.hash, one.from)].String(); one.endpoint != want {
			text := fmt.Sprintf("%s; a hash of the %s leads to an endpoint that is not the one of its slot", nfproxy, q.target.hash)
			if q.target.hash == "client" {
				text += fmt.Sprintf(": %s to %s instead of %s", one.from.Addr(), one.endpoint, want)
			}
			return kubeProxy, text, true
		}
	}
	return kubeProxy, nfproxy, false
}

// tableOf returns the table of the endpoints that kube-proxy uses for a question. There is none if some probe met no endpoint, or with
// session affinity, which decides for clients that are known.
func (a *arena) tableOf(q question, k observation) (table [tableSize]netip.AddrPort, ok bool) {
	if q.target.affinity > 0 {
		return table, false
	}
	weights := a.now.weightsOf(q.target)
	used := make(map[netip.AddrPort]bool)
	for text := range k.outcomes[q] {
		at, err := netip.ParseAddrPort(endpointOf(text))
		if err != nil {
			return table, false
		}
		used[at] = true
	}
	var shares []share
	for _, at := range slices.SortedFunc(maps.Keys(used), netip.AddrPort.Compare) {
		if weights[at] == 0 {
			return table, false
		}
		shares = append(shares, share{at, weights[at]})
	}
	if slices.ContainsFunc(shares, func(s share) bool { return s.weight != shares[0].weight }) {
		a.weightedTables++
	}
	return maglevTable(shares), true
}
