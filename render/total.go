package render

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
	"time"
)

// DefaultMaxElements is the default of Node.MaxElements: 100,000 Services with ten endpoints are within it.
const DefaultMaxElements = 2_000_000

// maxElements returns the bound of all Services together that applies on the node.
func (n Node) maxElements() int { return int(cmp.Or(n.MaxElements, DefaultMaxElements)) }

// Total decides which Services are served if all together cost more than Node.MaxElements: those of a smaller size class first, of
// one class the older ones first, then by their names, until one does not fit. A size class holds costs between two powers of two.
// So no Service is left out for a larger one, or for one of about the same size that is newer, and the decision depends on nothing
// but the Node and the Services. Services that are left out cost only their cluster IPs, which are not counted.
//
// Costs are counted only when their upper bounds exceed the bound, which takes a small part of the time. Within the bound an Update
// costs time for what it changes. Beyond it, each Update also adds up the costs in one size class.
//
// The zero Total is empty and ready to use.
type Total struct {
	services map[ServiceName]size
	counted  bool                   // the sizes are costs, not their upper bounds
	classes  [bits.UintSize + 1]int // what the Services of each size class cost
	sum      int
	left     map[ServiceName]bool // the Services that are left out
	// divided is the size class of which a part fits, 0 if everything fits. order holds its Services as they are served.
	divided int
	order   []contender
}

// size is what Total knows about a Service.
type size struct {
	elements int
	created  time.Time
}

func (s size) class() int { return bits.Len(uint(s.elements)) }

// contender is a Service of the divided class.
type contender struct {
	size
	name ServiceName
	left bool
}

func (c contender) compare(d contender) int {
	return cmp.Or(c.created.Compare(d.created), c.name.Compare(d.name))
}

// Take notes Services, as Bound returned them, and removals. It returns the other Services for which the decision changes, sorted.
// all yields all Services, as Bound returns them.
func (t *Total) Take(n Node, services []Service, removed []ServiceName, all iter.Seq[Service]) (changed []ServiceName) {
	if t.services == nil {
		t.services, t.left = make(map[ServiceName]size, len(services)), make(map[ServiceName]bool)
	}
	for _, name := range removed {
		t.remove(name)
		delete(t.left, name)
	}
	for _, s := range services {
		t.remove(s.ServiceName)
		t.insert(n, s)
	}
	if !t.counted && t.sum > n.maxElements() {
		t.counted = true
		for s := range all {
			t.remove(s.ServiceName)
			t.insert(n, s)
		}
	}
	if t.sum <= n.maxElements() && t.divided == 0 {
		return nil
	}
	taken := make(map[ServiceName]bool, len(services)+len(removed))
	for _, name := range removed {
		taken[name] = true
	}
	for _, s := range services {
		taken[s.ServiceName] = true
	}
	for name := range t.decide(n.maxElements(), taken) {
		if !taken[name] {
			changed = append(changed, name)
		}
	}
	slices.SortFunc(changed, ServiceName.Compare)
	return changed
}

func (t *Total) insert(n Node, service Service) {
	name, s := service.ServiceName, size{maxCost(n, service), service.Created}
	if t.counted {
		s.elements = Cost(n, service, n.maxServiceElements())
	}
	t.services[name] = s
	t.sum += s.elements
	t.classes[s.class()] += s.elements
	if s.class() == t.divided {
		c := contender{s, name, t.left[name]}
		at, _ := slices.BinarySearchFunc(t.order, c, contender.compare)
		t.order = slices.Insert(t.order, at, c)
	}
}

func (t *Total) remove(name ServiceName) {
	s, ok := t.services[name]
	if !ok {
		return
	}
	delete(t.services, name)
	t.sum -= s.elements
	t.classes[s.class()] -= s.elements
	if at, ok := slices.BinarySearchFunc(t.order, contender{size: s, name: name}, contender.compare); ok && s.class() == t.divided {
		t.order = slices.Delete(t.order, at, at+1)
	}
}

// decide decides about all Services. It returns those for which the decision changes, if they are not among taken, and some of taken.
func (t *Total) decide(limit int, taken map[ServiceName]bool) map[ServiceName]bool {
	divided, room := t.divide(limit)
	changed := make(map[ServiceName]bool)
	set := func(name ServiceName, left bool) {
		if t.left[name] == left {
			return
		}
		changed[name] = true
		if left {
			t.left[name] = true
		} else {
			delete(t.left, name)
		}
	}
	of := func(name ServiceName) {
		if s, ok := t.services[name]; ok && s.class() != divided {
			set(name, divided > 0 && s.class() > divided)
		}
	}
	if divided == t.divided {
		for name := range taken {
			of(name)
		}
	} else {
		for name := range t.services {
			of(name)
		}
		t.reorder(divided)
	}
	full := false
	for i := range t.order {
		c := &t.order[i]
		room -= c.elements
		if full = full || room < 0; c.left != full {
			c.left = full
			set(c.name, full)
		}
	}
	return changed
}

// divide returns the size class of which only a part fits, 0 if everything fits, and the room for its Services.
func (t *Total) divide(limit int) (class, room int) {
	if t.sum <= limit {
		return 0, limit
	}
	for room = limit; t.classes[class] <= room; class++ {
		room -= t.classes[class]
	}
	return class, room
}

// reorder fills order with the Services of another class.
func (t *Total) reorder(divided int) {
	t.divided, t.order = divided, nil
	if divided == 0 {
		return
	}
	for name, s := range t.services {
		if s.class() == divided {
			t.order = append(t.order, contender{s, name, t.left[name]})
		}
	}
	slices.SortFunc(t.order, contender.compare)
}

// Bound returns what is left of a Service that Take has noted: all of it, or only the cluster IPs.
func (t *Total) Bound(s Service) Service {
	if t.left[s.ServiceName] {
		s = Unported(s)
		s.Excess = WithoutRoom
	}
	return s
}
