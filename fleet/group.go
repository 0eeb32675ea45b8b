package fleet

import (
	"slices"
	"strings"
)

// Group is nodes whose answers are equal, by name. The members are indices of the answers.
type Group struct {
	Nodes   []string `json:"nodes"`
	Members []int    `json:"-"`
}

// Key is what equal answers have in common.
type Key struct {
	Node string
	// Text is compared. Detail is compared, too, but an empty one is equal to any other: the node has nothing to say about it.
	Text, Detail string
}

// RefusedKey returns the key of a node whose answer is an error of nfproxy, such as that it has no such Service.
func RefusedKey(node, said string) Key { return Key{Node: node, Text: "refused: " + said} }

// GroupBy returns the groups of equal keys, the largest first. keys has one for each answer; those with an empty Node are left out.
func GroupBy(keys []Key) []Group {
	members := make(map[[2]string][]int)
	for i, k := range keys {
		if k.Node != "" {
			members[[2]string{k.Text, k.Detail}] = append(members[[2]string{k.Text, k.Detail}], i)
		}
	}
	for at, undecided := range members {
		if at[1] != "" {
			continue
		}
		if to, ok := largestWith(members, at[0]); ok {
			members[to] = append(members[to], undecided...)
			delete(members, at)
		}
	}
	groups := []Group{}
	for _, list := range members {
		g := Group{Members: list}
		slices.SortFunc(g.Members, func(a, b int) int { return strings.Compare(keys[a].Node, keys[b].Node) })
		for _, i := range g.Members {
			g.Nodes = append(g.Nodes, keys[i].Node)
		}
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		if len(a.Nodes) != len(b.Nodes) {
			return len(b.Nodes) - len(a.Nodes)
		}
		return strings.Compare(a.Nodes[0], b.Nodes[0])
	})
	return groups
}

// largestWith returns the largest group with a text and any detail; of several the one with the lowest detail.
func largestWith(members map[[2]string][]int, text string) (largest [2]string, found bool) {
	for at, list := range members {
		if at[0] != text || at[1] == "" {
			continue
		}
		if n := len(members[largest]); !found || len(list) > n || len(list) == n && at[1] < largest[1] {
			largest, found = at, true
		}
	}
	return largest, found
}
