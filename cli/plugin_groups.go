package cli

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"nfproxy/fleet"
)

// writeGroups prints the groups of nodes whose answers have the same key, each with the text of its answer. An error that nfproxy
// on a node printed, such as that it has no such Service, is an answer, too.
func (s survey[T]) writeGroups(c *cli.Context, key func(node string, answer T) fleet.Key, text func(fleet.Group) (string, error)) error {
	refused := 0
	for i, a := range s.answers {
		if a.Said != "" {
			s.answers[i].Failure = ""
			refused++
		}
	}
	keys := make([]fleet.Key, len(s.answers))
	for _, i := range s.answered() {
		if a := s.answers[i]; a.Said != "" {
			keys[i] = fleet.RefusedKey(a.Node, a.Said)
		} else {
			keys[i] = key(a.Node, s.decoded[i])
		}
	}
	groups := fleet.GroupBy(keys)
	all, err := groupsText(groups, func(g fleet.Group) (string, error) {
		if said := s.answers[g.Members[0]].Said; said != "" {
			return printable(said) + "\n", nil
		}
		return text(g)
	})
	if err != nil {
		return err
	}
	r := s.report()
	r.Groups = groups
	found := ""
	if refused > 0 {
		found = "errors on " + count(refused, "node")
	}
	return s.write(c, r, all, found)
}

// groupsText prints each group with its nodes and its text.
func groupsText(groups []fleet.Group, text func(fleet.Group) (string, error)) (string, error) {
	answered := 0
	for _, g := range groups {
		answered += len(g.Nodes)
	}
	var b strings.Builder
	for i, g := range groups {
		if i > 0 {
			b.WriteString("\n")
		}
		b.WriteString(groupTitle(g, i == 0, answered) + "\n")
		body, err := text(g)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(body) {
			if line != "\n" {
				line = "  " + line
			}
			b.WriteString(line)
		}
	}
	return b.String(), nil
}

// groupTitle returns the line above the text of a group, which is the answer of its first node.
func groupTitle(g fleet.Group, largest bool, answered int) string {
	n, names := len(g.Nodes), strings.Join(g.Nodes, ", ")
	switch {
	case answered == 1:
		return names
	case n == answered:
		return fmt.Sprintf("all %d nodes agree (%s); this is the answer of %s", n, names, g.Nodes[0])
	case largest && n > 1:
		return fmt.Sprintf("%d of %d nodes agree (%s); this is the answer of %s", n, answered, names, g.Nodes[0])
	case n == 1:
		return fmt.Sprintf("1 of %d nodes differs (%s)", answered, names)
	}
	return fmt.Sprintf("%d of %d nodes differ (%s); this is the answer of %s", n, answered, names, g.Nodes[0])
}
