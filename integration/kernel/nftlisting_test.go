package kernel

import (
	"slices"
	"strings"
)

// sortedListing sorts the blocks of a listing, that is sets and chains. nft lists them in the order of their creation, which is
// irrelevant.
func sortedListing(listing string) string {
	blocks := strings.Split(strings.ReplaceAll(listing, "\n}\ntable ", "\n}\n\ntable "), "\n\n")
	for i := range blocks {
		blocks[i] = strings.TrimSpace(strings.NewReplacer("table ip nfproxy {", "", "table ip6 nfproxy {", "",
			"comment \"nfproxy schema 1\"", "").Replace(blocks[i]))
		blocks[i] = strings.TrimSpace(strings.TrimRight(blocks[i], "}\n"))
	}
	slices.Sort(blocks)
	return strings.Join(blocks, "\n")
}

// expressions returns the expressions that the kernel executes, from nft's netlink debugging output, sorted by rule. nft prints
// the rules in the order of their chains.
func expressions(debug string) string {
	var rules []string
	var rule []string
	for line := range strings.Lines(debug) {
		switch {
		case strings.HasPrefix(line, "  [ byteorder ") && strings.HasSuffix(line, ", 2, 1) ]\n"):
			// nft emits a byte order conversion that has no effect; nfproxy does not.
		case strings.HasPrefix(line, "  [ "):
			rule = append(rule, strings.TrimSpace(line))
		case rule != nil:
			rules, rule = append(rules, strings.Join(rule, " ")), nil
		}
	}
	slices.Sort(rules)
	return strings.Join(rules, "\n")
}
