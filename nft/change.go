package nft

import (
	"fmt"
	"strings"
	"time"
)

// Op is what a Change does with its object.
type Op uint8

// The operations.
const (
	Add Op = iota + 1
	Delete
	// Replace gives elements that exist new data or comments and lets them keep their counters; learnt elements it gives
	// another timeout.
	Replace
)

// Change is one step from a state to another.
type Change struct {
	Op     Op
	Object Object
}

// Object is what a Change is about. The set of kinds is closed: *Table, *Set and *Chain (without elements and rules),
// Rules, Elements, Learnt.
type Object interface{ object() }

// Rules are all the rules of a chain.
type Rules struct {
	Chain *Chain
}

// Elements are elements of one set.
type Elements struct {
	Set  *Set
	List []Element
}

// Learnt are elements that packets added to a dynamic map: to Delete those that have some data, or to Replace the timeout
// of all, as if it had been this one when each was last refreshed.
type DynamicElements struct {
	Set     *Set
	Data    []Value
	Timeout time.Duration
}

func (*Table) object()          {}
func (*Set) object()            {}
func (*Chain) object()          {}
func (Rules) object()           {}
func (Elements) object()        {}
func (DynamicElements) object() {}

// String prints the change as nft commands.
func (c Change) String() string {
	switch o := c.Object.(type) {
	case *Table:
		return c.verb() + " table " + o.TableID.String()
	case *Set:
		return c.setText(o)
	case *Chain:
		return c.chainText(o)
	case Rules:
		return c.rulesText(o.Chain)
	case Elements:
		return c.elementsText(o)
	case DynamicElements:
		return c.learntText(o)
	}
	return fmt.Sprintf("# no text for %T", c.Object)
}

// fewElements is how many elements a Summary names.
const fewElements = 3

// Summary is String for the log: of many elements it names the first.
func (c Change) Summary() string {
	e, ok := c.Object.(Elements)
	if !ok || len(e.List) <= fewElements {
		return c.String()
	}
	few := Change{c.Op, Elements{e.Set, e.List[:fewElements]}}
	return fmt.Sprintf("%s and %d more", few, len(e.List)-fewElements)
}

func (c Change) verb() string {
	if c.Op == Delete {
		return "delete"
	}
	return "add"
}

func (c Change) setText(s *Set) string {
	text := fmt.Sprintf("%s %s %s %s", c.verb(), s.keyword(), s.Table, s.Name)
	if c.Op == Delete {
		return text
	}
	return text + " { " + strings.Join(s.declaration(), "; ") + "; }"
}

func (c Change) chainText(ch *Chain) string {
	text := fmt.Sprintf("%s chain %s %s", c.verb(), ch.Table, ch.Name)
	if c.Op == Delete || ch.Hook == NoHook {
		return text
	}
	return text + " { " + ch.hookText() + " }"
}

func (c Change) rulesText(ch *Chain) string {
	if c.Op == Delete {
		return fmt.Sprintf("flush chain %s %s", ch.Table, ch.Name)
	}
	lines := make([]string, len(ch.Rules))
	for i, r := range ch.Rules {
		lines[i] = fmt.Sprintf("add rule %s %s %s", ch.Table, ch.Name, r.Text(ch.Table.Family))
	}
	return strings.Join(lines, "\n")
}

// elementsText prints a replacement as the two commands it is for nft.
func (c Change) elementsText(e Elements) string {
	command := func(verb string, text func(Element) string) string {
		parts := make([]string, len(e.List))
		for i, el := range e.List {
			parts[i] = text(el)
		}
		return fmt.Sprintf("%s element %s %s { %s }", verb, e.Set.Table, e.Set.Name, strings.Join(parts, ", "))
	}
	switch c.Op {
	case Delete:
		return command("delete", e.Set.keyText)
	case Replace:
		return command("delete", e.Set.keyText) + "\n" + command("add", e.Set.elementText)
	}
	return command("add", e.Set.elementText)
}

// learntText is no nft command: nft cannot do either.
func (c Change) learntText(l DynamicElements) string {
	if c.Op == Replace {
		return fmt.Sprintf("update element %s %s { * timeout %ds }", l.Set.Table, l.Set.Name, int64(l.Timeout.Seconds()))
	}
	data := make([]string, len(l.Data))
	for i, d := range l.Data {
		data[i] = d.text(l.Set.Data)
	}
	return fmt.Sprintf("delete element %s %s { * : %s }", l.Set.Table, l.Set.Name, strings.Join(data, ", * : "))
}

// ElementOperations counts the elements that the changes add and delete; a replaced one is both.
func ElementOperations(changes []Change) int {
	n := 0
	for _, c := range changes {
		if e, ok := c.Object.(Elements); ok {
			n += len(e.List)
			if c.Op == Replace {
				n += len(e.List)
			}
		}
	}
	return n
}
