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
	// Replace gives existing Elements new data or comments and keeps their counters. It gives DynamicElements another
	// timeout.
	Replace
)

// Change is one step from one state to another.
type Change struct {
	Op     Op
	Object Object
}

// Object is what a Change adds, deletes or replaces. The set of kinds is closed: *Table, *Set and *Chain (without their
// elements and rules), Rules, Elements and DynamicElements.
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

// DynamicElements are elements that packets added to a dynamic map.
type DynamicElements struct {
	Set *Set
	// Data selects the elements to Delete: those with one of these data.
	Data []Value
	// Timeout is what Replace sets for all elements, as if it had applied when each was last refreshed.
	Timeout time.Duration
}

func (*Table) object()          {}
func (*Set) object()            {}
func (*Chain) object()          {}
func (Rules) object()           {}
func (Elements) object()        {}
func (DynamicElements) object() {}

// Chain returns the chain that a change adds, deletes or gives other rules, nil for a change of another object.
func (c Change) Chain() *Chain {
	switch o := c.Object.(type) {
	case *Chain:
		return o
	case Rules:
		return o.Chain
	}
	return nil
}

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
		return c.dynamicText(o)
	}
	return fmt.Sprintf("# no text for %T", c.Object)
}

// fewElements is how many elements a Summary names.
const fewElements = 3

// Summary is String for the log: of a long list of elements it names only the first ones.
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

// elementsText prints a replacement as the two commands that nft needs for it.
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

// dynamicText resembles nft's syntax, but nft has no such commands.
func (c Change) dynamicText(d DynamicElements) string {
	if c.Op == Replace {
		return fmt.Sprintf("update element %s %s { * timeout %ds }", d.Set.Table, d.Set.Name, int64(d.Timeout.Seconds()))
	}
	data := make([]string, len(d.Data))
	for i, v := range d.Data {
		data[i] = v.text(d.Set.Data)
	}
	return fmt.Sprintf("delete element %s %s { * : %s }", d.Set.Table, d.Set.Name, strings.Join(data, ", * : "))
}

// ElementOperations counts the Elements that the changes add and delete. A replaced element counts as both.
// DynamicElements do not count: how many there are is known only to the kernel.
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
