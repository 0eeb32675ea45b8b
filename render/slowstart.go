package render

import (
	"net/netip"
	"slices"
	"time"
)

// MaxSlowStart is the longest time over which the weight of a new endpoint can grow.
const MaxSlowStart = time.Hour

// slowStartSteps is the number of steps in which the weight of a new endpoint grows. The first is a tenth of its weight.
const slowStartSteps = 10

// SlowStart lets the weights of newly ready endpoints grow over time, in Services that ask for it. Take applies an Update and returns it
// with the weights of the moment; Next returns when weights change again, and Due the Update with which they do.
//
// What the first Update has does not grow, so that a restart does not begin a slow start again, and neither do the endpoints of a
// Service that had none that was ready: they share alike.
type SlowStart struct {
	node     Node
	started  bool // the first Update has been taken
	services map[ServiceName]*startingService
}

// startingService is a Service with slow start.
type startingService struct {
	service Service // with its own weights
	ready   map[netip.AddrPort]bool
	since   map[netip.AddrPort]time.Time // when endpoints that still grow became ready
	shown   time.Time                    // the time whose weights the last Update has
}

// NewSlowStart returns a SlowStart without Services.
func NewSlowStart() *SlowStart { return &SlowStart{services: make(map[ServiceName]*startingService)} }

// Take applies an Update, and returns it with the weights at a time. The Update given is not changed.
func (s *SlowStart) Take(u Update, now time.Time) Update {
	s.node = u.Node
	for _, name := range u.Removed {
		delete(s.services, name)
	}
	services := u.Services
	for i, service := range u.Services {
		if service.SlowStart == 0 {
			delete(s.services, service.ServiceName)
			continue
		}
		state := s.services[service.ServiceName]
		if state == nil {
			state = &startingService{since: make(map[netip.AddrPort]time.Time)}
			s.services[service.ServiceName] = state
		}
		state.take(service, s.started, now)
		if &services[0] == &u.Services[0] {
			services = slices.Clone(services)
		}
		services[i] = state.at(now)
	}
	s.started, u.Services = true, services
	return u
}

// take replaces the Service. Endpoints that were not ready before begin to grow, if grow is set and others were.
func (s *startingService) take(service Service, grow bool, now time.Time) {
	had := s.ready
	s.service, s.ready = service, make(map[netip.AddrPort]bool)
	for _, p := range service.Ports {
		for _, e := range p.Endpoints {
			if !e.Ready {
				continue
			}
			s.ready[e.AddrPort] = true
			if grow && len(had) > 0 && !had[e.AddrPort] {
				s.since[e.AddrPort] = now
			}
		}
	}
	for e := range s.since {
		if !s.ready[e] {
			delete(s.since, e)
		}
	}
}

// step returns the part of its weight that an endpoint has at a time, in slowStartSteps, and when the next step is due.
func (s *startingService) step(since, now time.Time) (step int, next time.Time) {
	each := s.service.SlowStart / slowStartSteps
	step = min(1+int(now.Sub(since)/each), slowStartSteps)
	return step, since.Add(time.Duration(step) * each)
}

// at returns the Service with the weights at a time. While no endpoint grows, these are its own.
func (s *startingService) at(now time.Time) Service {
	s.shown = now
	for e, since := range s.since {
		if step, _ := s.step(since, now); step == slowStartSteps {
			delete(s.since, e)
		}
	}
	if len(s.since) == 0 {
		return s.service
	}
	service := s.service
	service.Ports = slices.Clone(service.Ports)
	for i, p := range service.Ports {
		service.Ports[i].Endpoints = slices.Clone(p.Endpoints)
		for j, e := range p.Endpoints {
			step := slowStartSteps
			if since, grows := s.since[e.AddrPort]; grows {
				step, _ = s.step(since, now)
			}
			service.Ports[i].Endpoints[j].Weight = uint16(e.weight() * step)
		}
	}
	return service
}

// Next returns when weights change, and false if none does.
func (s *SlowStart) Next() (next time.Time, grows bool) {
	for _, state := range s.services {
		if due, ok := state.next(); ok && (!grows || due.Before(next)) {
			next, grows = due, true
		}
	}
	return next, grows
}

// next returns when the first endpoint of the Service takes its next step, and false if none grows.
func (s *startingService) next() (next time.Time, grows bool) {
	for _, since := range s.since {
		if _, due := s.step(since, s.shown); !grows || due.Before(next) {
			next, grows = due, true
		}
	}
	return next, grows
}

// Due returns the Update with the Services whose weights have changed until a time, and false if there are none.
func (s *SlowStart) Due(now time.Time) (Update, bool) {
	u := Update{Node: s.node}
	for _, state := range s.services {
		if due, grows := state.next(); grows && !due.After(now) {
			u.Services = append(u.Services, state.at(now))
		}
	}
	slices.SortFunc(u.Services, func(a, b Service) int { return a.ServiceName.Compare(b.ServiceName) })
	return u, len(u.Services) > 0
}
