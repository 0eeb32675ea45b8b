package agent

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nft/kernel"
)

// refused continues an attempt whose planned changes the kernel refused. As a rule it reads the tables. If that has taken its share
// of time, it sends the changes without those of the Services at fault: somebody may edit such a Service all the time.
func (d *daemon) refused(start time.Time, refusal error) (commit, error) {
	if d.throttle.mayRead(time.Now()) {
		d.ruleset.Forget()
		d.logRefused(refusal)
		return d.reconcile()
	}
	changes, err := d.withoutRefused(refusal)
	if err != nil {
		d.ruleset.Forget()
		return commit{}, err
	}
	return commit{changes: changes, took: time.Since(start)}, nil
}

// withoutRefused sends the planned changes without those of the Services whose rules the kernel refuses. It returns an error if
// the refusal may mean that the tables differ from what is known about them, so that no Service is at fault.
func (d *daemon) withoutRefused(refusal error) ([]nft.Change, error) {
	for _, differs := range []error{kernel.ErrStale, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.ENOTEMPTY} {
		if errors.Is(refusal, differs) {
			return nil, refusal
		}
	}
	return d.converge(0)
}

// logRefused logs a refusal after which the tables are read.
func (d *daemon) logRefused(err error) {
	if log, ok := d.lines.About("tables", "refused"); ok {
		log.Warn("a change was refused; reading the tables again", "error", err)
	}
}
