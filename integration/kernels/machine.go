package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// A machine is a virtual machine with one of Debian's kernels.
type machine struct {
	name   string        // of the kernel's directory below .bin, and of the files in dist/kernels
	atMost time.Duration // on the host's clock
}

// run boots the machine with a root file system, waits until it switches itself off, and returns the output of the tests,
// also if there is an error.
func (m machine) run(ctx context.Context, initramfs string) ([]byte, error) {
	image, err := m.image()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, m.atMost)
	defer cancel()
	console, output := filepath.Join(results, m.name+".console"), filepath.Join(results, m.name+".output")
	for _, stale := range []string{console, output} {
		if err := os.Remove(stale); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
		"-accel", "tcg", "-cpu", "max", "-m", "3G",
		// One virtual nanosecond for an instruction, and none for waiting: a time-out in a test does not depend on the host. With
		// this option several processors are much slower than one.
		"-icount", "shift=0,sleep=off", "-rtc", "clock=vm", "-smp", "1",
		// The mitigations of processors' faults and the check of clocks cost the emulation time and have nothing to do with nfproxy.
		// The last parameters tell integration/clock that it may set the clock, and integration/ipvs that it may load modules.
		"-kernel", image, "-initrd", initramfs, "-append", "console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable clocksource=tsc no5lvl nowatchdog nfproxy.settable-clock nfproxy.loadable-modules",
		"-serial", "file:"+console, "-serial", "file:"+output)
	messages, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v: %w", m.atMost, ctx.Err())
	} else if err != nil {
		err = fmt.Errorf("%w\n%s", err, messages)
	}
	b, readErr := os.ReadFile(output)
	return b, errors.Join(err, readErr)
}

// packages returns the directory with the files of the kernel's packages.
func (m machine) packages() string { return filepath.Join(".bin", "linux-"+m.name) }

// image returns the path of the kernel, which newer packages have among the modules.
func (m machine) image() (string, error) {
	for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"} {
		if found, _ := filepath.Glob(filepath.Join(m.packages(), pattern)); len(found) == 1 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("%s has no kernel: run make %[1]s", m.packages())
}
