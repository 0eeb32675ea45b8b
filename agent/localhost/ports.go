package localhost

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"syscall"

	"nfproxy/agent/listeners"
	"nfproxy/nft"
	"nfproxy/ratelimit"
	"nfproxy/render"
)

// Hooks are told what becomes of listeners. They may be called concurrently.
type Hooks struct {
	// Report gets an error message for a Service whose node port cannot be bound, and again with every further attempt.
	Report func(service render.ServiceName, message string, again bool)
	// Failed is called for every failed attempt to bind a port.
	Failed func(nft.Family)
}

// Ports serves the TCP node ports of Services at loopback addresses. Take and Programmed must be called from one goroutine.
type Ports struct {
	hooks     Hooks
	log       *slog.Logger
	lines     *ratelimit.Log // of what a Service can cause at any rate
	listeners *listeners.Set
	limit     limit // of the connections of all ports

	// Only Take and Programmed use these fields.
	services  map[render.ServiceName][]render.LocalhostPort
	claims    map[netip.AddrPort]map[render.ServiceName]render.LocalhostPort
	touched   map[netip.AddrPort]bool // claims that changed since the last call of Programmed
	notServed map[render.ServiceName][]otherPort
	conflicts map[conflict]bool // reported

	mu sync.Mutex
	// ports holds a port for each address and port with a claim; the ports with endpoints have a listener.
	ports map[netip.AddrPort]*port
}

// otherPort identifies a node port whose protocol is not TCP.
type otherPort struct {
	name     string
	nodePort uint16
	protocol nft.Protocol
}

// conflict is a node port that a Service does not get because another one has it.
type conflict struct {
	loser, owner render.ServiceName
	at           netip.AddrPort
}

// NewPorts returns Ports without listeners. The caller closes it.
func NewPorts(hooks Hooks, log *slog.Logger) *Ports {
	p := &Ports{
		hooks:     hooks,
		log:       log,
		lines:     ratelimit.NewLog(log, ratelimit.Burst),
		limit:     limit{max: maxConnections},
		services:  make(map[render.ServiceName][]render.LocalhostPort),
		claims:    make(map[netip.AddrPort]map[render.ServiceName]render.LocalhostPort),
		touched:   make(map[netip.AddrPort]bool),
		notServed: make(map[render.ServiceName][]otherPort),
		conflicts: make(map[conflict]bool),
		ports:     make(map[netip.AddrPort]*port),
	}
	p.listeners = listeners.New(p.server, listeners.Hooks{Failed: p.failed, Bound: p.bound, Ended: p.ended})
	return p
}

// Open returns the number of listeners of each family.
func (p *Ports) Open() (ipv4, ipv6 int) { return p.listeners.Open() }

// Close closes all listeners and connections. It may be called twice; Take and Programmed must not be called afterwards.
func (p *Ports) Close() {
	p.listeners.Close()
	for _, one := range p.ports {
		one.close()
	}
}

// Take applies an update. It reports node ports that are not served because of their protocol, each once.
func (p *Ports) Take(u render.Update) {
	for _, name := range u.Removed {
		p.take(name, nil, nil)
	}
	for _, s := range u.Services {
		p.take(s.ServiceName, render.LocalhostPortsOf(u.Node, s), render.NotAtLocalhost(u.Node, s))
	}
}

// take replaces the ports of a Service.
func (p *Ports) take(name render.ServiceName, ports []render.LocalhostPort, other []render.Port) {
	p.reportOther(name, other)
	had := p.services[name]
	if len(had)+len(ports) == 0 || reflect.DeepEqual(had, ports) {
		return
	}
	for _, port := range had {
		delete(p.claims[port.At], name)
		p.touched[port.At] = true
	}
	for _, port := range ports {
		if p.claims[port.At] == nil {
			p.claims[port.At] = make(map[render.ServiceName]render.LocalhostPort)
		}
		if _, repeated := p.claims[port.At][name]; !repeated { // of two ports with one number the first is served
			p.claims[port.At][name] = port
		}
		p.touched[port.At] = true
	}
	if p.services[name] = ports; len(ports) == 0 {
		delete(p.services, name)
	}
}

// reportOther reports the ports of a Service that are not served at loopback addresses, unless that is known.
func (p *Ports) reportOther(name render.ServiceName, ports []render.Port) {
	var all []otherPort
	for _, port := range ports {
		one := otherPort{port.Name, port.NodePort, port.Protocol}
		if all = append(all, one); !slices.Contains(p.notServed[name], one) {
			if log, ok := p.lines.About(name.String(), "protocol"); ok {
				log.Warn("a node port is not served at localhost: only TCP is", "service", name, "port", one.name,
					"nodePort", one.nodePort, "protocol", one.protocol)
			}
		}
	}
	if p.notServed[name] = all; len(all) == 0 {
		delete(p.notServed, name)
	}
}

// Programmed makes the listeners follow the updates so far. The caller calls it when the kernel has the rules of the updates.
func (p *Ports) Programmed() {
	if len(p.touched) == 0 {
		return
	}
	gone, changed := p.updatePorts()
	if changed {
		p.listeners.Keep(p.wanted())
	}
	for _, one := range gone { // its listener is closed now
		p.mu.Lock()
		delete(p.ports, one.at)
		p.mu.Unlock()
		one.close()
	}
}

// updatePorts passes the touched claims on to their ports. It returns the ports without a claim, and whether other listeners are
// wanted than before.
func (p *Ports) updatePorts() (gone []*port, changed bool) {
	for at := range p.touched {
		one := p.ports[at]
		owner, claimed := p.owner(at)
		switch {
		case one == nil && !claimed:
			continue
		case one == nil:
			one = newPort(at, &p.limit, p.log)
			p.mu.Lock()
			p.ports[at] = one
			p.mu.Unlock()
		case !claimed:
			delete(p.claims, at)
			gone = append(gone, one)
		}
		changed = one.update(owner) || changed
	}
	clear(p.touched)
	return gone, changed
}

// owner returns the claim that takes precedence, and reports the others, each once. It returns false if there is no claim.
func (p *Ports) owner(at netip.AddrPort) (owner render.LocalhostPort, claimed bool) {
	claims := p.claims[at]
	for _, c := range claims {
		if !claimed || c.Precedes(owner) {
			owner, claimed = c, true
		}
	}
	maps.DeleteFunc(p.conflicts, func(c conflict, _ bool) bool {
		_, stays := claims[c.loser]
		return c.at == at && (c.owner != owner.Service || !stays)
	})
	for name := range claims {
		c := conflict{name, owner.Service, at}
		if name == owner.Service || p.conflicts[c] {
			continue
		}
		p.conflicts[c] = true
		if log, ok := p.lines.About(name.String(), "taken"); ok {
			log.Warn("node port at localhost is taken by another Service", "service", name, "address", at, "owner", owner.Service)
		}
	}
	return owner, claimed
}

// wanted returns the addresses and ports that need a listener. A port without endpoints has none, so that the kernel refuses
// connections.
func (p *Ports) wanted() map[netip.AddrPort]render.ServiceName {
	wanted := make(map[netip.AddrPort]render.ServiceName)
	for at, one := range p.ports {
		if service, serves := one.served(); serves {
			wanted[at] = service
		}
	}
	return wanted
}

// server returns the Server of a new listener.
func (p *Ports) server(at netip.AddrPort) listeners.Server {
	p.mu.Lock()
	defer p.mu.Unlock()
	return acceptor{p.ports[at]}
}

// failed reports that a Service's node port cannot be bound, in the log once.
func (p *Ports) failed(service render.ServiceName, at netip.AddrPort, err error, first bool) {
	p.hooks.Failed(render.Family(at.Addr()))
	if errors.Is(err, syscall.EACCES) && at.Port() < 1024 {
		err = fmt.Errorf("%w: ports below 1024 need CAP_NET_BIND_SERVICE", err)
	}
	p.hooks.Report(service, fmt.Sprintf("cannot listen at %s: %v", at, err), !first)
	if !first {
		return
	}
	if log, ok := p.lines.About(service.String(), "listen"); ok {
		log.Warn("node port cannot be served at localhost yet", "service", service, "address", at, "error", err)
	}
}

func (p *Ports) bound(service render.ServiceName, at netip.AddrPort) {
	if log, ok := p.lines.About(service.String(), "served"); ok {
		log.Info("node port is served at localhost now", "service", service, "address", at)
	}
}

func (p *Ports) ended(at netip.AddrPort, err error) {
	p.log.Warn("listener of a node port at localhost ended, restarting it", "address", at, "error", err)
}
