package agent

import (
	"errors"

	"golang.org/x/sys/unix"
)

// outdated reports whether a change may have been refused because another program, such as a second daemon, has changed the tables
// since they were read: the change adds what exists, or deletes what does not exist or is in use.
func (d *daemon) outdated(refusal error) bool {
	if !errors.Is(refusal, unix.EEXIST) && !errors.Is(refusal, unix.ENOENT) && !errors.Is(refusal, unix.EBUSY) {
		return false
	}
	changed, err := d.kernel.ChangedSinceRead()
	return err == nil && changed
}
