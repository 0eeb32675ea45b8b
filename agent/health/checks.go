package health

import (
	"maps"
	"net/netip"
	"slices"

	"nfproxy/render"
)

// Checks holds the health checks of all Services. It applies updates as they arrive and passes the checks on when the kernel
// has the rules that they describe. The methods of a nil Checks do nothing.
type Checks struct {
	set     func(checks []render.HealthCheck, addrs []netip.Addr)
	checks  map[render.ServiceName]render.HealthCheck
	addrs   []netip.Addr
	changed bool // since the last call of set
}

// NewChecks returns Checks that passes the health checks and the addresses at which they are served to set.
func NewChecks(set func([]render.HealthCheck, []netip.Addr)) *Checks {
	return &Checks{set: set, checks: make(map[render.ServiceName]render.HealthCheck)}
}

// Take applies an update.
func (c *Checks) Take(u render.Update) {
	if c == nil {
		return
	}
	if addrs := u.Node.HealthCheckAddresses(); !slices.Equal(c.addrs, addrs) {
		c.addrs, c.changed = addrs, true
	}
	for _, name := range u.Removed {
		c.remove(name)
	}
	for _, s := range u.Services {
		check, wanted := render.HealthCheckOf(u.Node, s)
		if !wanted {
			c.remove(s.ServiceName)
		} else if c.checks[s.ServiceName] != check {
			c.checks[s.ServiceName], c.changed = check, true
		}
	}
}

func (c *Checks) remove(name render.ServiceName) {
	if _, ok := c.checks[name]; ok {
		delete(c.checks, name)
		c.changed = true
	}
}

// Programmed passes the health checks on if they have changed. The caller calls it when the kernel has the rules of all
// updates so far.
func (c *Checks) Programmed() {
	if c == nil || !c.changed {
		return
	}
	c.changed = false
	c.set(slices.Collect(maps.Values(c.checks)), c.addrs)
}
