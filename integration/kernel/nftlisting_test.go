package kernel

import (
	"slices"
	"strings"
)

// sorted puts the blocks of a listing, sets and chains, in order: nft lists them in the order of their creation, which
// says nothing.
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

// expressions are the lines of nft's netlink debugging that say what the kernel executes, in order of themselves: nft
// prints the rules in the order of their chains.
func expressions(debug string) string {
	var rules []string
	var rule []string
	for line := range strings.Lines(debug) {
		switch {
		case strings.HasPrefix(line, "  [ byteorder ") && strings.HasSuffix(line, ", 2, 1) ]\n"):
			// It turns no number of two bytes around in one byte: nft writes it, we do not, nothing happens.
		case strings.HasPrefix(line, "  [ "):
			rule = append(rule, strings.TrimSpace(line))
		case rule != nil:
			rules, rule = append(rules, strings.Join(rule, " ")), nil
		}
	}
	slices.Sort(rules)
	return strings.Join(rules, "\n")
}
