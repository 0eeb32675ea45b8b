package watcher

import (
	"cmp"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"time"

	"nfproxy/nft"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// catalog holds the reduced objects of a source and computes Updates from their changes. It does not depend on the kind of
// source: a source calls put and remove, and then update.
type catalog struct {
	log *slog.Logger
	// problems is the log of objects with problems. All problems of an object can be logged once; a client may edit the object all the time.
	problems *ratelimit.Log
	// nodeRequired is true for an API server. Then a machine is not eligible for new connections from load balancers until it
	// has a Node object, and the last state of a deleted Node stays in use.
	nodeRequired bool
	nodePorts    nodePortAddresses

	// node is this machine's Node, nil if there is none.
	node     *node
	services map[render.ServiceName]*service
	// nodePortServices counts the Services with node ports of each family.
	nodePortServices map[nft.Family]int
	serviceCIDRs     map[string]*serviceCIDR
	slicesByName     map[sliceName]*slice
	// slicesByService holds the slices that belong to a Service, by their own names, whether the Service exists or not.
	slicesByService map[render.ServiceName]map[string]*slice

	// dirty are the Services to join again.
	dirty map[render.ServiceName]bool
	// joined are the Services as Updates have reported them, before render.Bound, whose result depends on the node too.
	joined map[render.ServiceName]render.Service
	// total decides about the Services of joined that do not fit on the node together.
	total render.Total
	// reported is the previous Update without its Services. started is false until the first Update.
	reported render.Update
	started  bool

	// arrived is when the source received the objects that it is putting. seen is when it received the first change since
	// the previous Update.
	arrived, seen time.Time
	// triggered are the trigger times of the changes of each Service's slices since the previous Update.
	triggered map[render.ServiceName][]time.Time
	created   time.Time
}

// sliceName identifies an EndpointSlice.
type sliceName struct {
	namespace, name string
}

func newCatalog(log *slog.Logger) *catalog {
	return &catalog{
		log:              log,
		problems:         ratelimit.NewLog(log, maxProblems+1),
		services:         map[render.ServiceName]*service{},
		nodePortServices: map[nft.Family]int{},
		serviceCIDRs:     map[string]*serviceCIDR{},
		slicesByName:     map[sliceName]*slice{},
		slicesByService:  map[render.ServiceName]map[string]*slice{},
		dirty:            map[render.ServiceName]bool{},
		joined:           map[render.ServiceName]render.Service{},
		triggered:        map[render.ServiceName][]time.Time{},
		created:          time.Now(),
	}
}

// put adds or replaces an object and logs the problems that it did not have before.
func (c *catalog) put(o object) {
	switch {
	case o.service != nil:
		c.putService(o.service)
	case o.slice != nil:
		c.putSlice(o.slice)
	case o.node != nil:
		c.putNode(o.node)
	case o.serviceCIDR != nil:
		c.putServiceCIDR(o.serviceCIDR)
	}
}

// remove removes an object.
func (c *catalog) remove(key objectKey) {
	switch key.kind {
	case serviceKind:
		c.removeService(render.ServiceName{Namespace: key.namespace, Name: key.name})
	case sliceKind:
		c.removeSlice(sliceName{key.namespace, key.name})
	case nodeKind:
		c.removeNode(key.name)
	case serviceCIDRKind:
		c.removeServiceCIDR(key.name)
	}
}

// retain removes all objects of a kind but those to keep.
func (c *catalog) retain(kind string, keep map[objectKey]bool) {
	for _, key := range c.keys(kind) {
		if !keep[key] {
			c.remove(key)
		}
	}
}

// keys returns the keys of all objects of a kind.
func (c *catalog) keys(kind string) (keys []objectKey) {
	switch kind {
	case serviceKind:
		for name := range c.services {
			keys = append(keys, objectKey{kind, name.Namespace, name.Name})
		}
	case sliceKind:
		for name := range c.slicesByName {
			keys = append(keys, objectKey{kind, name.namespace, name.name})
		}
	case nodeKind:
		if c.node != nil {
			keys = append(keys, objectKey{kind: kind, name: c.node.name})
		}
	case serviceCIDRKind:
		for name := range c.serviceCIDRs {
			keys = append(keys, objectKey{kind: kind, name: name})
		}
	}
	return keys
}

// touch records that something has changed.
func (c *catalog) touch() {
	if c.seen.IsZero() {
		c.seen = c.arrived
	}
}

// touchService records that a Service or one of its slices has changed.
func (c *catalog) touchService(name render.ServiceName) {
	c.dirty[name] = true
	c.touch()
}

func (c *catalog) putNode(n *node) {
	if reflect.DeepEqual(n, c.node) {
		return
	}
	c.logProblems(deref(c.node).problems, n.problems)
	c.node = n
	c.touch()
}

func (c *catalog) removeNode(name string) {
	if !c.nodeRequired {
		c.node = nil
		c.touch()
		return
	}
	if c.node == nil || c.node.deleted {
		return
	}
	last := *c.node
	last.deleted = true
	c.node = &last
	c.log.Warn("the Node object of this machine was deleted; its last state stays in use", "node", name)
}

func (c *catalog) putService(s *service) {
	old := c.services[s.ServiceName]
	if reflect.DeepEqual(old, s) {
		return
	}
	c.logProblems(deref(old).problems, s.problems)
	c.countNodePorts(old, -1)
	c.countNodePorts(s, 1)
	c.services[s.ServiceName] = s
	c.touchService(s.ServiceName)
}

func (c *catalog) removeService(name render.ServiceName) {
	c.countNodePorts(c.services[name], -1)
	delete(c.services, name)
	c.touchService(name)
}

// countNodePorts adds n to the numbers of Services with node ports of the families in which a Service, which may be nil, has some.
func (c *catalog) countNodePorts(s *service, n int) {
	for _, family := range s.nodePortFamilies() {
		c.nodePortServices[family] += n
	}
}

func (c *catalog) putSlice(s *slice) {
	name := sliceName{s.namespace, s.name}
	old := c.slicesByName[name]
	if old != nil && old.equal(s) {
		return
	}
	c.logProblems(deref(old).problems, s.problems)
	c.unlink(old)
	c.slicesByName[name] = s
	if s.service == "" {
		return
	}
	service := s.serviceName()
	if c.slicesByService[service] == nil {
		c.slicesByService[service] = map[string]*slice{}
	}
	c.slicesByService[service][s.name] = s
	c.touchService(service)
	if time.Since(s.triggered) < time.Since(c.created) { // compared as ages: the clock may have been set since
		c.triggered[service] = append(c.triggered[service], s.triggered)
	}
}

// removeSlice removes an EndpointSlice. The trigger time in its annotation belongs to its last change, not to its removal,
// so the trigger times of the Service's changes are no longer known (as in pkg/proxy/endpointschangetracker.go).
func (c *catalog) removeSlice(name sliceName) {
	old := c.slicesByName[name]
	delete(c.slicesByName, name)
	c.unlink(old)
	if old != nil {
		delete(c.triggered, old.serviceName())
	}
}

// unlink removes a slice from its Service, if it belongs to one.
func (c *catalog) unlink(s *slice) {
	if s == nil || s.service == "" {
		return
	}
	service := s.serviceName()
	delete(c.slicesByService[service], s.name)
	if len(c.slicesByService[service]) == 0 {
		delete(c.slicesByService, service)
	}
	c.touchService(service)
}

func (c *catalog) putServiceCIDR(s *serviceCIDR) {
	old := c.serviceCIDRs[s.name]
	if reflect.DeepEqual(old, s) {
		return
	}
	c.logProblems(deref(old).problems, s.problems)
	c.serviceCIDRs[s.name] = s
	c.touch()
}

func (c *catalog) removeServiceCIDR(name string) {
	delete(c.serviceCIDRs, name)
	c.touch()
}

// logProblems logs the problems that are in now and not in old, unless it has logged many of the object lately.
func (c *catalog) logProblems(old, now []Problem) {
	for _, p := range now {
		if slices.Contains(old, p) {
			continue
		}
		if p.Skipped {
			c.log.Debug("object skipped", "object", p.Object, "field", p.Field, "detail", p.Detail)
			continue
		}
		if log, ok := c.problems.About(p.Object, "problems"); ok {
			log.Warn("part of an object cannot be used", "object", p.Object, "field", p.Field, "detail", p.Detail)
		}
	}
}

// update joins the Services that have changed and returns an Update with those whose joined value differs, sorted by name, and
// with those that are affected if the node differs. It reports whether the Update contains a change. given is the node as the
// settings describe it, the same at each call; the facts of the Node object and of the ServiceCIDRs are added.
func (c *catalog) update(given render.Node) (update render.Update, changed bool) {
	update.Node = c.node.describe(given)
	update.Node.IPs = c.nodePorts.primary(update.Node.Addresses)
	update.Node.Addresses, update.Node.AllAddresses = c.nodePorts.choose(update.Node.IPs, c.nodePortServices)
	update.Node.ServiceCIDRs = c.allServiceCIDRs(given.ServiceCIDRs)
	update.NotEligible = !c.node.eligible(c.nodeRequired)
	if c.started && !slices.Equal(update.Node.Addresses, c.reported.Node.Addresses) {
		c.log.Info("the addresses of node ports changed", "addresses", update.Node.Addresses)
	}
	nodeChanged := !update.Node.Equal(c.reported.Node)
	changedServices := make(map[render.ServiceName]bool)
	for _, name := range slices.SortedFunc(maps.Keys(c.dirty), render.ServiceName.Compare) {
		service, removed, differs := c.rejoin(update.Node, name)
		switch {
		case removed:
			update.Removed = append(update.Removed, name)
		case differs && nodeChanged:
			changedServices[name] = true
		case differs:
			update.Services = append(update.Services, render.Bound(update.Node, service))
		}
		if differs && c.started {
			update.Triggered = append(update.Triggered, c.triggered[name]...)
		}
	}
	if nodeChanged {
		all := !c.started || !update.Node.EqualExceptNodePorts(c.reported.Node)
		for _, name := range slices.SortedFunc(maps.Keys(c.joined), render.ServiceName.Compare) {
			if s := c.joined[name]; all || s.HasNodePorts() || changedServices[name] {
				update.Services = append(update.Services, render.Bound(update.Node, s))
			}
		}
	}
	c.boundTotal(&update)
	changed = nodeChanged || len(update.Services) > 0 || len(update.Removed) > 0 || update.NotEligible != c.reported.NotEligible
	update.Seen = cmp.Or(c.seen, time.Now())
	c.reported, c.started = render.Update{Node: update.Node, NotEligible: update.NotEligible}, true
	c.seen = time.Time{}
	clear(c.dirty)
	clear(c.triggered)
	return update, changed
}

// boundTotal applies the bound of all Services together: to the Services of an Update, and to those for which the decision changes,
// which it adds.
func (c *catalog) boundTotal(u *render.Update) {
	also := c.total.Take(u.Node, u.Services, u.Removed, func(yield func(render.Service) bool) {
		for _, s := range c.joined {
			if !yield(render.Bound(u.Node, s)) {
				return
			}
		}
	})
	for _, name := range also {
		u.Services = append(u.Services, render.Bound(u.Node, c.joined[name]))
	}
	if len(also) > 0 {
		slices.SortFunc(u.Services, func(a, b render.Service) int { return a.ServiceName.Compare(b.ServiceName) })
	}
	for i, s := range u.Services {
		u.Services[i] = c.total.Bound(s)
	}
}

// rejoin joins a Service again. It reports whether the Service was reported and is removed now, or differs from what was
// reported.
func (c *catalog) rejoin(n render.Node, name render.ServiceName) (joined render.Service, removed, differs bool) {
	old, reported := c.joined[name]
	svc := c.services[name]
	if svc == nil || svc.skipped {
		delete(c.joined, name)
		return joined, reported, false
	}
	joined = join(n, svc, slices.Collect(maps.Values(c.slicesByService[name])))
	if reported && equal(old, joined) {
		return old, false, false
	}
	c.joined[name] = joined
	return joined, false, true
}
