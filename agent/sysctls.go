package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"nfproxy/config"
)

// sysctl is a number that the kernel keeps in a file.
type sysctl struct {
	// path of the file, from the root.
	path  string
	value int
	// raise leaves a greater number alone.
	raise bool
	// setting is what asked for it.
	setting string
}

// maxConntrack is what the number of connections for all CPUs together ends at, however many there are, as kube-proxy's.
const maxConntrack = 1 << 20

// conntrackSysctls are the numbers that make conntrack what the settings say, on a machine with that many CPUs: what
// kube-proxy 1.36 sets (pkg/proxy/conntrack/sysctls.go).
func conntrackSysctls(c config.Conntrack, cpus int) []sysctl {
	var list []sysctl
	add := func(name string, value int, setting string) {
		if value > 0 {
			list = append(list, sysctl{path: "proc/sys/net/netfilter/" + name, value: value, setting: "conntrack." + setting})
		}
	}
	if limit := conntrackMax(c, cpus); limit > 0 {
		add("nf_conntrack_max", limit, "maxPerCore")
		// The kernel has four connections for each bucket unless told otherwise.
		list = append(list, sysctl{
			path: "sys/module/nf_conntrack/parameters/hashsize", value: limit / 4, raise: true, setting: "conntrack.maxPerCore",
		})
	}
	add("nf_conntrack_tcp_timeout_established", int(c.TCPEstablished/time.Second), "tcpEstablishedTimeout")
	add("nf_conntrack_tcp_timeout_close_wait", int(c.TCPCloseWait/time.Second), "tcpCloseWaitTimeout")
	if c.TCPBeLiberal {
		add("nf_conntrack_tcp_be_liberal", 1, "tcpBeLiberal")
	}
	add("nf_conntrack_udp_timeout", int(c.UDPTimeout/time.Second), "udpTimeout")
	add("nf_conntrack_udp_timeout_stream", int(c.UDPStreamTimeout/time.Second), "udpStreamTimeout")
	return list
}

// conntrackMax is how many connections there may be, 0 to leave that as it is.
func conntrackMax(c config.Conntrack, cpus int) int {
	if c.MaxPerCore == 0 {
		return 0
	}
	if all := c.MaxPerCore * cpus; all <= maxConntrack {
		return max(all, c.Min)
	}
	return maxConntrack
}

// applySysctls writes what differs from what it should be, in the files under root. What cannot be written is a warning:
// Services work without it.
func applySysctls(root string, list []sysctl, log *slog.Logger) {
	for _, s := range list {
		path := filepath.Join(root, s.path)
		changed, err := s.write(path)
		switch {
		case err != nil:
			log.Warn("could not set a number of the kernel; it stays as it is", "file", path, "value", s.value,
				"setting", s.setting, "error", err)
		case changed:
			log.Info("set a number of the kernel", "file", path, "value", s.value, "setting", s.setting)
		}
	}
}

// write writes the number if it is another. Files are never made: the kernel has them or not.
func (s sysctl) write(path string) (changed bool, err error) {
	have, err := readNumber(path)
	if err != nil {
		return false, err
	}
	if have == s.value || s.raise && have > s.value {
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return false, err
	}
	_, err = f.WriteString(strconv.Itoa(s.value))
	return err == nil, errors.Join(err, f.Close())
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// oomScoreAdj is the number that says how soon this process is killed when memory runs out.
func oomScoreAdj(value int32) sysctl {
	return sysctl{path: "proc/self/oom_score_adj", value: int(value), setting: "oomScoreAdj"}
}

// setUpMachine sets what the settings ask of the kernel besides rules. The files of conntrack are there once its module
// is loaded, which our tables do at the latest.
func setUpMachine(root string, s config.Settings, log *slog.Logger) {
	list := conntrackSysctls(s.Conntrack, countCPUs(root))
	if s.OOMScoreAdj != nil {
		list = append(list, oomScoreAdj(*s.OOMScoreAdj))
	}
	applySysctls(root, list, log)
}

// countCPUs is how many CPUs the machine has. The runtime knows only those that this process may use.
func countCPUs(root string) int {
	text, err := os.ReadFile(filepath.Join(root, "sys/devices/system/cpu/online"))
	if err != nil {
		return runtime.NumCPU()
	}
	n, err := parseCPUs(strings.TrimSpace(string(text)))
	if err != nil {
		return runtime.NumCPU()
	}
	return n
}

// parseCPUs counts a list such as 0-3,8.
func parseCPUs(list string) (int, error) {
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		if err != nil {
			return 0, err
		}
		to, err := strconv.Atoi(last)
		if err != nil {
			return 0, err
		}
		n += to - from + 1
	}
	return n, nil
}
