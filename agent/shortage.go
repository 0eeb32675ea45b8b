package agent

import (
	"errors"
	"fmt"
	"time"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
	"nfproxy/render"
)

// maxWithoutRoom is how many Services one attempt quarantines because there is no room for them. More mean that memory is short for
// all: then no Service is at fault, and the others wait for the next attempt.
const maxWithoutRoom = 8

// shortageError is the error of an attempt that has programmed only some Services, since memory for the others is short.
type shortageError struct {
	waiting int // Services that keep the rules that they had
	err     error
}

func (e *shortageError) Error() string { return fmt.Sprintf("%d Services wait: %v", e.waiting, e.err) }

func (e *shortageError) Unwrap() error { return e.err }

// isShortage reports whether an attempt ended with a shortageError. The state of the kernel is known then.
func isShortage(err error) bool {
	_, ok := errors.AsType[*shortageError](err)
	return ok
}

// convergeInParts takes the place of a transaction for which there is no room. It first sends what concerns no single Service,
// while all Services that change keep what the kernel has of them, and then these Services, those with few elements first. If there
// is no room for some of them, it sends half of them at a time. One Service for which there is no room is quarantined: n Services of which one is at
// fault take about 2 log2(n) transactions, most of them small.
func (d *daemon) convergeInParts(cause error) (changes []nft.Change, err error) {
	parts := [][]render.ServiceName{d.ruleset.Changing()}
	d.log.Warn("no room for a transaction; programming in parts", "error", cause, "services", len(parts[0]))
	d.hold(parts[0])
	defer func() {
		for _, part := range parts {
			d.release(part)
		}
	}()
	if changes, err = d.applyPlan(); err != nil {
		return nil, err
	}
	for quarantined := 0; len(parts) > 0; {
		part := parts[len(parts)-1]
		d.release(part)
		more, err := d.applyPlan()
		var refusal *kernel.ChangeError
		switch {
		case err == nil:
			changes = append(changes, more...)
			parts = parts[:len(parts)-1]
		case d.stale(err):
			return nil, fmt.Errorf("%w: %w", kernel.ErrStale, err)
		case !errors.Is(err, kernel.ErrNoRoom):
			if !errors.As(err, &refusal) || !d.quarantine(refusal) {
				return nil, err
			}
			parts[len(parts)-1] = d.unquarantined(part)
		case len(part) > 1:
			d.hold(part)
			half := len(part) / 2
			parts = append(parts[:len(parts)-1], part[half:], part[:half])
		case len(part) == 1 && quarantined < maxWithoutRoom:
			d.quarantineOne(part[0], err)
			quarantined++
			parts = parts[:len(parts)-1]
		default:
			return nil, &shortageError{count(parts), err}
		}
	}
	return changes, nil
}

// hold makes Services keep what the kernel has of them, without the retries of a quarantine.
func (d *daemon) hold(names []render.ServiceName) {
	for _, name := range names {
		d.ruleset.Quarantine(name)
	}
}

func (d *daemon) release(names []render.ServiceName) {
	for _, name := range names {
		d.ruleset.Release(name)
	}
}

func (d *daemon) unquarantined(names []render.ServiceName) (rest []render.ServiceName) {
	for _, name := range names {
		if !d.ruleset.Quarantined(name) {
			rest = append(rest, name)
		}
	}
	return rest
}

func count(parts [][]render.ServiceName) (n int) {
	for _, part := range parts {
		n += len(part)
	}
	return n
}

// quarantineOne quarantines a Service, and reports whether it was not quarantined yet.
func (d *daemon) quarantineOne(name render.ServiceName, refusal error) bool {
	if !d.ruleset.Quarantine(name) {
		return false
	}
	retry := d.retries.add(name, time.Now())
	for _, o := range d.observers {
		if o.quarantined != nil {
			o.quarantined(name, refusal, retry)
		}
	}
	return true
}
