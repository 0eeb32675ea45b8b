package deploy

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// dropPrivileges reduces the privileges of the thread, and of what it executes, to those of the container.
func (c *container) dropPrivileges() error {
	for cap := range unix.CAP_LAST_CAP + 1 {
		if slices.Contains(c.Capabilities, cap) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(cap), 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", cap, err)
		}
	}
	if c.UID != 0 {
		if err := c.becomeUser(); err != nil {
			return err
		}
	}
	if err := c.setCapabilities(); err != nil {
		return err
	}
	if !c.NoNewPrivs {
		return nil
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// becomeUser changes to the container's user and group and drops supplementary groups. It keeps the capabilities.
func (c *container) becomeUser() error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	for _, call := range [][3]uintptr{
		{unix.SYS_SETGROUPS, 0, 0}, {unix.SYS_SETGID, uintptr(c.UID), 0}, {unix.SYS_SETUID, uintptr(c.UID), 0},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], 0); errno != 0 {
			return fmt.Errorf("become user %d: %w", c.UID, errno)
		}
	}
	return nil
}

// setCapabilities sets the capabilities of the thread to the container's and makes them ambient on request.
func (c *container) setCapabilities() error {
	var data [2]unix.CapUserData
	for _, cap := range c.Capabilities {
		if c.UID != 0 && !c.Ambient && !c.KeepCapabilities {
			break
		}
		word, bit := &data[cap/32], uint32(1)<<(cap%32)
		word.Permitted |= bit
		word.Effective |= bit
		if c.Ambient {
			word.Inheritable |= bit
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	if !c.Ambient {
		return nil
	}
	for _, cap := range c.Capabilities {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(cap), 0, 0); err != nil {
			return fmt.Errorf("make capability %d ambient: %w", cap, err)
		}
	}
	return nil
}
