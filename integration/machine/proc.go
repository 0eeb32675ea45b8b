//go:build linux

package machine

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what /proc tells about a process.
type Usage struct {
	Resident    float64 // bytes
	Peak        float64 // most resident bytes since the start of the process
	Descriptors float64
	Threads     float64
	CPU         float64 // seconds since the start of the process
	ChildrenCPU float64 // seconds of the children that have ended and were waited for, and of their children
}

// ticksPerSecond is USER_HZ, the unit of the times in /proc/PID/stat, which is 100 on all architectures that Go supports.
const ticksPerSecond = 100

// UsageOf returns the usage of a process.
func UsageOf(pid int) (Usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Usage{}, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Usage{}, err
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return Usage{}, err
	}
	// Field 2 is the name in parentheses and may contain spaces; after it follows field 3 (proc_pid_stat(5)).
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	fields := strings.Fields(string(rest))
	if len(fields) < 22 {
		return Usage{}, errors.New("a process has ended")
	}
	field := func(number int) float64 {
		n, _ := strconv.ParseFloat(fields[number-3], 64)
		return n
	}
	return Usage{
		Resident:    field(24) * float64(os.Getpagesize()),
		Peak:        kilobytes(status)["VmHWM"],
		Descriptors: float64(len(open)),
		Threads:     field(20),
		CPU:         (field(14) + field(15)) / ticksPerSecond,
		ChildrenCPU: (field(16) + field(17)) / ticksPerSecond,
	}, nil
}

// Memory returns fields of /proc/meminfo in bytes. They are those of the whole machine, not of the network namespace.
func Memory() (map[string]float64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	return kilobytes(text), nil
}

// kilobytes returns the fields "NAME: NUMBER kB" of a file of /proc in bytes.
func kilobytes(text []byte) map[string]float64 {
	fields := make(map[string]float64)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		number, ok := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if kB, err := strconv.ParseFloat(number, 64); ok && err == nil {
			fields[name] = kB * 1024
		}
	}
	return fields
}

// TCPCounter returns a counter of TCP in the network namespace of the calling thread. In /proc/net/netstat a line of names
// precedes each line of values (netstat_seq_show in net/ipv4/proc.c).
func TCPCounter(name string) (float64, error) {
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, err
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if i := slices.Index(names, name); i >= 0 && i < len(fields) && fields[0] == names[0] {
			return strconv.ParseFloat(fields[i], 64)
		}
		names = fields
	}
	return 0, fmt.Errorf("/proc/net/netstat has no %s", name)
}

// NumberIn returns the first number in a file.
func NumberIn(path string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return 0, fmt.Errorf("%s is empty", path)
	}
	return strconv.ParseFloat(fields[0], 64)
}

// AllocatedObjects returns the bytes of the objects that the kernel has allocated from the caches of kmalloc, of the whole machine,
// without those that it can reclaim. Unlike the slabs of /proc/meminfo, objects that were freed do not count (slabinfo(5)). Only root
// can read that.
func AllocatedObjects() (float64, error) {
	text, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "kmalloc-") || strings.HasPrefix(fields[0], "kmalloc-rcl-") {
			continue
		}
		objects, err1 := strconv.ParseFloat(fields[1], 64)
		size, err2 := strconv.ParseFloat(fields[3], 64)
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("/proc/slabinfo: %w", err)
		}
		sum += objects * size
	}
	if sum == 0 {
		return 0, errors.New("/proc/slabinfo has no caches of kmalloc")
	}
	return sum, nil
}

// CPUTime returns the CPU seconds of a process, to the nanosecond, without those of its children. The clock of a process has the number
// that MAKE_PROCESS_CPUCLOCK of include/linux/posix-timers_types.h makes of its process number.
func CPUTime(pid int) (float64, error) {
	const schedulerClock = 2 // CPUCLOCK_SCHED
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &t); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()).Seconds(), nil
}

// Descendants returns a process and its descendants that run now.
func Descendants(pid int) []int {
	all := []int{pid}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // fails if the process has ended
	for _, thread := range threads {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread.Name()))
		for _, text := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(text); err == nil {
				all = append(all, Descendants(child)...)
			}
		}
	}
	return all
}

// Resident returns the resident memory of a process in bytes, or 0 if it has ended.
func Resident(pid int) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseFloat(fields[1], 64)
	return pages * float64(os.Getpagesize())
}
