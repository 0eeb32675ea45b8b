package watcher

import (
	"cmp"
	"log/slog"
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
	node *node
	// services holds the Services that exist or have EndpointSlices, and those that an Update has reported last.
	services map[render.ServiceName]*catalogued
	// nodePortServices counts the Services with node ports of each family.
	nodePortServices map[nft.Family]int
	serviceCIDRs     map[string]*serviceCIDR
	slices           map[sliceName]*slice

	// dirty are the Services to join again, each once.
	dirty []*catalogued
	// total decides about the reported Services that do not fit on the node together.
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

// catalogued is what the catalog holds of one Service.
type catalogued struct {
	name    render.ServiceName
	service *service // nil if it does not exist
	slices  []*slice // sorted by name; the list is replaced when it changes, because reported keeps it
	// reported is the Service as Updates have reported it, before render.Bound, whose result depends on the node too. It is nil if
	// the Service is not reported.
	reported *joined
	dirty    bool
}

// sliceName identifies an EndpointSlice.
type sliceName struct {
	namespace, name string
}

func newCatalog(log *slog.Logger) *catalog {
	return &catalog{
		log:              log,
		problems:         ratelimit.NewLog(log, maxProblems+1),
		services:         map[render.ServiceName]*catalogued{},
		nodePortServices: map[nft.Family]int{},
		serviceCIDRs:     map[string]*serviceCIDR{},
		slices:           map[sliceName]*slice{},
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
		for name, s := range c.services {
			if s.service != nil {
				keys = append(keys, objectKey{kind, name.Namespace, name.Name})
			}
		}
	case sliceKind:
		for name := range c.slices {
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
func (c *catalog) touchService(s *catalogued) {
	if !s.dirty {
		s.dirty = true
		c.dirty = append(c.dirty, s)
	}
	c.touch()
}

// of returns what the catalog holds of a Service, empty at first.
func (c *catalog) of(name render.ServiceName) *catalogued {
	s := c.services[name]
	if s == nil {
		s = &catalogued{name: name}
		c.services[name] = s
	}
	return s
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

func (c *catalog) putService(now *service) {
	s := c.of(now.ServiceName)
	if reflect.DeepEqual(s.service, now) {
		return
	}
	c.logProblems(deref(s.service).problems, now.problems)
	c.setService(s, now)
}

func (c *catalog) removeService(name render.ServiceName) { c.setService(c.of(name), nil) }

func (c *catalog) setService(s *catalogued, now *service) {
	c.countNodePorts(s.service, -1)
	c.countNodePorts(now, 1)
	s.service = now
	c.touchService(s)
}

// countNodePorts adds n to the numbers of Services with node ports of the families in which a Service, which may be nil, has some.
func (c *catalog) countNodePorts(s *service, n int) {
	for _, family := range s.nodePortFamilies() {
		c.nodePortServices[family] += n
	}
}

func (c *catalog) putSlice(s *slice) {
	name := sliceName{s.namespace, s.name}
	old := c.slices[name]
	if old != nil && old.equal(s) {
		return
	}
	c.logProblems(deref(old).problems, s.problems)
	if old != nil && old.service != s.service {
		c.link(old, nil)
	}
	c.slices[name] = s
	c.link(s, s)
	if s.service != "" && time.Since(s.triggered) < time.Since(c.created) { // compared as ages: the clock may have been set since
		c.triggered[s.serviceName()] = append(c.triggered[s.serviceName()], s.triggered)
	}
}

// removeSlice removes an EndpointSlice. The trigger time in its annotation belongs to its last change, not to its removal,
// so the trigger times of the Service's changes are no longer known (as in pkg/proxy/endpointschangetracker.go).
func (c *catalog) removeSlice(name sliceName) {
	old := c.slices[name]
	if old == nil {
		return
	}
	delete(c.slices, name)
	c.link(old, nil)
	delete(c.triggered, old.serviceName())
}

// link replaces the slice of a Service that has the name of s by now, or removes it if now is nil. It does nothing for a slice
// that belongs to no Service.
func (c *catalog) link(s, now *slice) {
	if s.service == "" {
		return
	}
	of := c.of(s.serviceName())
	at, found := slices.BinarySearchFunc(of.slices, s, compareSlices)
	rest := of.slices[at:]
	if found {
		rest = rest[1:]
	}
	if now == nil {
		of.slices = slices.Concat(of.slices[:at], rest)
	} else {
		of.slices = slices.Concat(of.slices[:at], []*slice{now}, rest)
	}
	c.touchService(of)
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

// update joins the Services that have changed and returns an Update with those whose joined value differs, sorted by name, and
// with those that are affected if the node differs. It reports whether the Update contains a change. given is the node as the
// settings describe it, the same at each call; the facts of the Node object and of the ServiceCIDRs are added.
func (c *catalog) update(given render.Node) (update render.Update, changed bool) {
	update.Node = c.node.describe(given)
	update.Node.IPs = c.nodePorts.primary(update.Node.Addresses)
	update.Node.Addresses, update.Node.AllAddresses = c.nodePorts.choose(update.Node.IPs, c.nodePortServices)
	update.Node.ServiceCIDRs = c.allServiceCIDRs(given)
	update.NotEligible = !c.node.eligible(c.nodeRequired)
	if c.started && !slices.Equal(update.Node.Addresses, c.reported.Node.Addresses) {
		c.log.Info("the addresses of node ports changed", "addresses", update.Node.Addresses)
	}
	nodeChanged := !update.Node.Equal(c.reported.Node)
	slices.SortFunc(c.dirty, func(a, b *catalogued) int { return a.name.Compare(b.name) })
	changedServices := make(map[render.ServiceName]bool)
	for _, s := range c.dirty {
		before := s.reported
		s.reported, s.dirty = c.rejoin(update.Node, s), false
		c.forgetAbsent(s)
		c.logProblems(deref(before).problems, deref(s.reported).problems)
		service, endpoints := s.reported.differs(before)
		if !service && !endpoints {
			continue
		}
		update.ServiceChanges += count(service)
		update.EndpointChanges += count(endpoints)
		switch {
		case s.reported == nil:
			update.Removed = append(update.Removed, s.name)
			continue
		case nodeChanged:
			changedServices[s.name] = true
		default:
			update.Services = append(update.Services, render.Bound(update.Node, s.reported.value()))
		}
		if c.started {
			update.Triggered = append(update.Triggered, c.triggered[s.name]...)
		}
	}
	if nodeChanged {
		all := !c.started || !update.Node.EqualExceptNodePorts(c.reported.Node)
		reported := c.reportedServices()
		update.Services = slices.Grow(update.Services, len(reported))
		for _, r := range reported {
			if s := r.reported.value(); all || s.HasNodePorts() || changedServices[s.ServiceName] {
				update.Services = append(update.Services, render.Bound(update.Node, s))
			}
		}
	}
	c.boundTotal(&update)
	changed = nodeChanged || len(update.Services) > 0 || len(update.Removed) > 0 || update.NotEligible != c.reported.NotEligible
	update.Seen = cmp.Or(c.seen, time.Now())
	c.reported, c.started = render.Update{Node: update.Node, NotEligible: update.NotEligible}, true
	c.seen = time.Time{}
	c.dirty = nil
	clear(c.triggered)
	return update, changed
}

// boundTotal applies the bound of all Services together: to the Services of an Update, and to those for which the decision changes,
// which it adds.
func (c *catalog) boundTotal(u *render.Update) {
	also := c.total.Take(u.Node, u.Services, u.Removed, func(yield func(render.Service) bool) {
		for _, s := range c.services {
			if s.reported != nil && !yield(render.Bound(u.Node, s.reported.value())) {
				return
			}
		}
	})
	for _, name := range also {
		u.Services = append(u.Services, render.Bound(u.Node, c.services[name].reported.value()))
	}
	if len(also) > 0 {
		slices.SortFunc(u.Services, func(a, b render.Service) int { return a.ServiceName.Compare(b.ServiceName) })
	}
	for i, s := range u.Services {
		u.Services[i] = c.total.Bound(s)
	}
}

// reportedServices returns the Services that Updates have reported, sorted by name.
func (c *catalog) reportedServices() []*catalogued {
	all := make([]*catalogued, 0, len(c.services))
	for _, s := range c.services {
		if s.reported != nil {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *catalogued) int { return a.name.Compare(b.name) })
	return all
}

// rejoin joins a Service again, and returns nil if there is none to report.
func (c *catalog) rejoin(n render.Node, s *catalogued) *joined {
	switch {
	case s.service == nil || s.service.skipped:
		return nil
	case s.reported != nil && s.reported.service == s.service:
		return s.reported.with(n, s.slices)
	}
	return newJoined(n, s.service, s.slices)
}

// forgetAbsent removes a Service of which nothing is left.
func (c *catalog) forgetAbsent(s *catalogued) {
	if s.service == nil && len(s.slices) == 0 {
		delete(c.services, s.name)
	}
}

// count returns 1 for a change.
func count(changed bool) int {
	if changed {
		return 1
	}
	return 0
}
