package watcher

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"nfproxy/render"
)

// catalog holds the objects of a source, reduced, and knows what they change. It does not care where objects come
// from: a source puts and removes them and takes Updates.
type catalog struct {
	log *slog.Logger
	// node is this machine's Node object, nil while there is none. nodeNeeded says that there must be one.
	node       *node
	nodeNeeded bool
	services   map[render.ServiceName]*service
	// slices are those of each Service, by their own names, whether there is the Service or not.
	slices map[render.ServiceName]map[string]*slice
	// named are all slices, also those of no Service.
	named        map[objectName]*slice
	serviceCIDRs map[string]*serviceCIDR
	// dirty are the Services to join again.
	dirty map[render.ServiceName]bool
	// joined is what Updates have told so far.
	joined map[render.ServiceName]render.Service
	// told is the last Update, without its Services; begun says that there was one.
	told  render.Update
	begun bool

	// arrived is when the source got what it puts, seen when it got the first that made a difference since the last Update.
	arrived, seen time.Time
	// triggered is what has caused the changes of each Service's slices since the last Update.
	triggered map[render.ServiceName][]time.Time
	created   time.Time
}

// objectName names an object, as far as its kind is known.
type objectName struct {
	namespace, name string
}

func newCatalog(log *slog.Logger) *catalog {
	return &catalog{
		log:          log,
		services:     map[render.ServiceName]*service{},
		slices:       map[render.ServiceName]map[string]*slice{},
		named:        map[objectName]*slice{},
		serviceCIDRs: map[string]*serviceCIDR{},
		dirty:        map[render.ServiceName]bool{},
		joined:       map[render.ServiceName]render.Service{},
		triggered:    map[render.ServiceName][]time.Time{},
		created:      time.Now(),
	}
}

// touch notes that something is not what it was.
func (c *catalog) touch() {
	if c.seen.IsZero() {
		c.seen = c.arrived
	}
}

// touchService notes that a Service or one of its slices is not what it was.
func (c *catalog) touchService(name render.ServiceName) {
	c.dirty[name] = true
	c.touch()
}

// putNode adds or replaces this machine's Node and logs the problems that it did not have before.
func (c *catalog) putNode(n *node) {
	if reflect.DeepEqual(n, c.node) {
		return
	}
	c.report(deref(c.node).problems, n.problems)
	c.node = n
	c.touch()
}

func (c *catalog) removeNode() {
	c.node = nil
	c.touch()
}

// loseNode notes that this machine's Node is no longer in the cluster. What it said stays true of a machine that goes on.
func (c *catalog) loseNode(name string) {
	if c.node == nil || c.node.lost {
		return
	}
	lost := *c.node
	lost.lost = true
	c.node = &lost
	c.log.Warn("this machine's Node is gone, what it said last goes on to hold", "node", name)
	c.touch()
}

// putService adds or replaces a Service and logs the problems that it did not have before.
func (c *catalog) putService(s *service) {
	old := c.services[s.ServiceName]
	if reflect.DeepEqual(old, s) {
		return
	}
	c.report(deref(old).problems, s.problems)
	c.services[s.ServiceName] = s
	c.touchService(s.ServiceName)
}

func (c *catalog) removeService(name render.ServiceName) {
	delete(c.services, name)
	c.touchService(name)
}

// putSlice adds or replaces an EndpointSlice and logs the problems that it did not have before.
func (c *catalog) putSlice(s *slice) {
	name := objectName{s.namespace, s.name}
	old := c.named[name]
	if old != nil && old.same(s) {
		return
	}
	c.report(deref(old).problems, s.problems)
	c.unlink(old)
	c.named[name] = s
	if s.service == "" {
		return
	}
	of := s.of()
	if c.slices[of] == nil {
		c.slices[of] = map[string]*slice{}
	}
	c.slices[of][s.name] = s
	c.touchService(of)
	if s.triggered.After(c.created) {
		c.triggered[of] = append(c.triggered[of], s.triggered)
	}
}

// removeSlice removes an EndpointSlice. Its annotation tells of its last change, not of its end, so what triggered the
// Service's changes is not known any more (pkg/proxy/endpointschangetracker.go).
func (c *catalog) removeSlice(name objectName) {
	old := c.named[name]
	delete(c.named, name)
	c.unlink(old)
	if old != nil {
		delete(c.triggered, old.of())
	}
}

// unlink takes a slice from its Service, if it has one.
func (c *catalog) unlink(s *slice) {
	if s == nil || s.service == "" {
		return
	}
	of := s.of()
	delete(c.slices[of], s.name)
	if len(c.slices[of]) == 0 {
		delete(c.slices, of)
	}
	c.touchService(of)
}

// putServiceCIDR adds or replaces a ServiceCIDR and logs the problems that it did not have before.
func (c *catalog) putServiceCIDR(s *serviceCIDR) {
	old := c.serviceCIDRs[s.name]
	if reflect.DeepEqual(old, s) {
		return
	}
	c.report(deref(old).problems, s.problems)
	c.serviceCIDRs[s.name] = s
	c.touch()
}

func (c *catalog) removeServiceCIDR(name string) {
	delete(c.serviceCIDRs, name)
	c.touch()
}

// report logs problems that are new.
func (c *catalog) report(old, now []Problem) {
	for _, p := range now {
		if slices.Contains(old, p) {
			continue
		}
		level, message := slog.LevelWarn, "part of an object cannot be used"
		if p.Skipped {
			level, message = slog.LevelDebug, "object skipped"
		}
		c.log.Log(context.Background(), level, message, "object", p.Object, "field", p.Field, "detail", p.Detail)
	}
}

// update joins the Services that changed and returns those whose joined value did, sorted by name, or all of them if the
// node did. It tells whether there is anything new. The node is as given, always the same, with what its object and the
// ServiceCIDRs say.
func (c *catalog) update(given render.Node) (update render.Update, news bool) {
	update.Node = c.node.describe(given)
	update.Node.ServiceCIDRs = c.allServiceCIDRs(given.ServiceCIDRs)
	update.NotEligible = !c.node.eligible(c.nodeNeeded)
	changed := !update.Node.Equal(c.told.Node)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirty), render.ServiceName.Compare) {
		now, gone, differs := c.rejoin(name)
		switch {
		case gone:
			update.Removed = append(update.Removed, name)
		case differs && !changed:
			update.Services = append(update.Services, now)
		}
		if differs && c.begun {
			update.Triggered = append(update.Triggered, c.triggered[name]...)
		}
	}
	if changed {
		for _, name := range slices.SortedFunc(maps.Keys(c.joined), render.ServiceName.Compare) {
			update.Services = append(update.Services, c.joined[name])
		}
	}
	news = changed || len(update.Services) > 0 || len(update.Removed) > 0 || update.NotEligible != c.told.NotEligible
	update.Seen = cmp.Or(c.seen, time.Now())
	c.told, c.begun, c.seen = render.Update{Node: update.Node, NotEligible: update.NotEligible}, true, time.Time{}
	clear(c.dirty)
	clear(c.triggered)
	return update, news
}

// rejoin joins a Service again and tells whether it is gone or differs from what Updates have told.
func (c *catalog) rejoin(name render.ServiceName) (now render.Service, gone, differs bool) {
	old, known := c.joined[name]
	svc := c.services[name]
	if svc == nil || svc.skipped {
		delete(c.joined, name)
		return now, known, false
	}
	now = join(svc, slices.Collect(maps.Values(c.slices[name])))
	if known && same(old, now) {
		return old, false, false
	}
	c.joined[name] = now
	return now, false, true
}
