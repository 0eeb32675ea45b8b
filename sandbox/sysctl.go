//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sysctl is a kernel parameter below /proc/sys/net, as described at
// https://docs.kernel.org/networking/ip-sysctl.html
type sysctl struct{ name, value string }

// The parameters are written while lo is the only link. A new link starts with
// the "default" values, and some "all" values apply in addition to those of the
// link. ip_forward comes first because it resets other parameters.
var (
	nodeSysctls4 = []sysctl{
		{"ipv4/ip_forward", "1"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
		// A pod that connects to itself through a VIP must not cause ICMP redirects.
		{"ipv4/conf/all/send_redirects", "0"},
		{"ipv4/conf/default/send_redirects", "0"},
	}
	nodeSysctls6 = []sysctl{
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/all/forwarding", "1"},
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
	}
	podSysctls4 = []sysctl{
		{"ipv4/ip_forward", "0"},
		{"ipv4/conf/all/rp_filter", "0"},
		{"ipv4/conf/default/rp_filter", "0"},
	}
	podSysctls6 = []sysctl{
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/all/accept_dad", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		// A pod that accepts no router advertisements sends no solicitations either.
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/default/accept_redirects", "0"},
	}
)

// set writes parameters of n and verifies each of them.
func (n *Namespace) set(parameters ...sysctl) error {
	if !n.made {
		return errNotOurs
	}
	return n.Do(func() error {
		here, err := Current()
		if err != nil {
			return err
		}
		defer here.Close()
		if isInit(here.file) {
			return errNotOurs
		}
		for _, p := range parameters {
			if err := p.write(); err != nil {
				return fmt.Errorf("set sysctl %s to %s: %w", p.path(), p.value, err)
			}
		}
		return nil
	})
}

// hasIPv6 reports whether the kernel has IPv6. With ipv6.disable=1 on its
// command line the kernel has neither IPv6 nor its parameters.
func (n *Namespace) hasIPv6() (bool, error) {
	err := n.Do(func() error {
		_, err := os.Stat("/proc/sys/net/ipv6/conf")
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (p sysctl) path() string { return filepath.Join("/proc/sys/net", p.name) }

// write writes p in the namespace of the calling thread, whose parameters
// /proc/sys/net shows (fs/proc/proc_sysctl.c).
func (p sysctl) write() error {
	if err := os.WriteFile(p.path(), []byte(p.value), 0o644); err != nil {
		return err
	}
	got, err := os.ReadFile(p.path())
	if err != nil {
		return err
	}
	if s := strings.TrimSpace(string(got)); s != p.value {
		return fmt.Errorf("the value is %s after the write", s)
	}
	return nil
}
