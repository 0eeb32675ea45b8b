package watcher

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"nfproxy/render"
)

// catalog holds the objects of a source, reduced, and knows what they change. It does not care where objects come
// from: a source puts and removes them and takes Updates.
type catalog struct {
	log *slog.Logger
	// node is this machine's Node object, nil while there is none.
	node     *node
	services map[render.ServiceName]*service
	// slices are those of each Service, by their own names, whether there is the Service or not.
	slices map[render.ServiceName]map[string]*slice
	// named are all slices, also those of no Service.
	named map[sliceName]*slice
	// dirty are the Services to join again.
	dirty map[render.ServiceName]bool
	// joined is what Updates have told so far.
	joined map[render.ServiceName]render.Service
	// told is the node of the last Update.
	told render.Node
}

// sliceName names an EndpointSlice.
type sliceName struct {
	namespace, name string
}

func newCatalog(log *slog.Logger) *catalog {
	return &catalog{
		log:      log,
		services: map[render.ServiceName]*service{},
		slices:   map[render.ServiceName]map[string]*slice{},
		named:    map[sliceName]*slice{},
		dirty:    map[render.ServiceName]bool{},
		joined:   map[render.ServiceName]render.Service{},
	}
}

// putNode adds or replaces this machine's Node and logs the problems that it did not have before.
func (c *catalog) putNode(n *node) {
	if n == c.node {
		return
	}
	c.report(deref(c.node).problems, n.problems)
	c.node = n
}

func (c *catalog) removeNode() { c.node = nil }

// putService adds or replaces a Service and logs the problems that it did not have before.
func (c *catalog) putService(s *service) {
	old := c.services[s.ServiceName]
	if old == s {
		return
	}
	c.report(deref(old).problems, s.problems)
	c.services[s.ServiceName] = s
	c.dirty[s.ServiceName] = true
}

func (c *catalog) removeService(name render.ServiceName) {
	delete(c.services, name)
	c.dirty[name] = true
}

// putSlice adds or replaces an EndpointSlice and logs the problems that it did not have before.
func (c *catalog) putSlice(s *slice) {
	name := sliceName{s.namespace, s.name}
	old := c.named[name]
	if old == s {
		return
	}
	c.report(deref(old).problems, s.problems)
	c.removeSlice(name)
	c.named[name] = s
	if s.service == "" {
		return
	}
	of := render.ServiceName{Namespace: s.namespace, Name: s.service}
	if c.slices[of] == nil {
		c.slices[of] = map[string]*slice{}
	}
	c.slices[of][s.name] = s
	c.dirty[of] = true
}

func (c *catalog) removeSlice(name sliceName) {
	old := c.named[name]
	delete(c.named, name)
	if old == nil || old.service == "" {
		return
	}
	of := render.ServiceName{Namespace: name.namespace, Name: old.service}
	delete(c.slices[of], name.name)
	if len(c.slices[of]) == 0 {
		delete(c.slices, of)
	}
	c.dirty[of] = true
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
// node did. It tells whether there is anything new. The node is as given, always the same, with what its object says.
func (c *catalog) update(given render.Node) (update render.Update, news bool) {
	update.Node = c.node.describe(given)
	changed := !update.Node.Equal(c.told)
	c.told = update.Node
	names := slices.SortedFunc(maps.Keys(c.dirty), render.ServiceName.Compare)
	clear(c.dirty)
	for _, name := range names {
		now, gone, differs := c.rejoin(name)
		switch {
		case gone:
			update.Removed = append(update.Removed, name)
		case differs && !changed:
			update.Services = append(update.Services, now)
		}
	}
	if changed {
		for _, name := range slices.SortedFunc(maps.Keys(c.joined), render.ServiceName.Compare) {
			update.Services = append(update.Services, c.joined[name])
		}
	}
	return update, changed || len(update.Services) > 0 || len(update.Removed) > 0
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
