package render

// Quarantine makes a Service keep its applied objects, whatever the desired ones are, until its next Update or Release. It is
// meant for a Service whose rules the kernel rejects, so that the others can be programmed. Before the first Accept its applied
// objects are those in the observed tables. It returns false if the Service does not exist or is quarantined already.
func (r *Ruleset) Quarantine(name ServiceName) bool {
	s := r.services[name]
	if s == nil || s.quarantined {
		return false
	}
	if !r.confirmed {
		s.applied = r.inherited(name)
	}
	s.quarantined = true
	r.changed[name] = true
	return true
}

// Release ends a quarantine: the next Plan gives the Service its desired objects.
func (r *Ruleset) Release(name ServiceName) {
	if s := r.services[name]; s != nil && s.quarantined {
		s.quarantined = false
		r.changed[name] = true
	}
}

// Quarantined reports whether a Service is quarantined.
func (r *Ruleset) Quarantined(name ServiceName) bool {
	s := r.services[name]
	return s != nil && s.quarantined
}
