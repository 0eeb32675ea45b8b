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

// sysctl is a number that the kernel exposes as a file.
type sysctl struct {
	// path is the file's path, relative to the root.
	path  string
	value int
	// raise: a greater number is left as it is.
	raise bool
	// setting is the name of the setting that asks for the value.
	setting string
}

// maxConntrack is the upper limit of the number of conntrack entries computed from the number of CPUs, the same as kube-proxy's.
const maxConntrack = 1 << 20

// conntrackSysctls returns the connection tracking parameters that the settings ask for on a machine with that many CPUs: those
// that kube-proxy 1.36 sets (pkg/proxy/conntrack/sysctls.go).
func conntrackSysctls(c config.Conntrack, cpus int) []sysctl {
	var list []sysctl
	add := func(name string, value int, setting string) {
		if value > 0 {
			list = append(list, sysctl{path: "proc/sys/net/netfilter/" + name, value: value, setting: "conntrack." + setting})
		}
	}
	if limit := conntrackMax(c, cpus); limit > 0 {
		add("nf_conntrack_max", limit, "maxPerCore")
		// By default the kernel has four entries for each bucket.
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

// conntrackMax returns the largest number of conntrack entries, 0 to leave the kernel's limit as it is.
func conntrackMax(c config.Conntrack, cpus int) int {
	if c.MaxPerCore == 0 {
		return 0
	}
	if all := c.MaxPerCore * cpus; all <= maxConntrack {
		return max(all, c.Min)
	}
	return maxConntrack
}

// applySysctls writes the values that differ to the files under root. A value that cannot be written is logged as a warning:
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

// write writes the value if the file has another one. It never creates a file: the kernel has it, or not.
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

// oomScoreAdj returns the sysctl that decides how soon the kernel kills this process when memory runs out (proc(5)).
func oomScoreAdj(value int32) sysctl {
	return sysctl{path: "proc/self/oom_score_adj", value: int(value), setting: "oomScoreAdj"}
}

// setUpMachine applies the settings that concern the kernel beyond nftables. The files of connection tracking exist once its
// module is loaded, which our tables cause at the latest.
func setUpMachine(root string, s config.Settings, log *slog.Logger) {
	list := conntrackSysctls(s.Conntrack, countCPUs(root))
	if s.OOMScoreAdj != nil {
		list = append(list, oomScoreAdj(*s.OOMScoreAdj))
	}
	applySysctls(root, list, log)
}

// countCPUs returns the number of CPUs of the machine. The Go runtime knows only those that this process may use.
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

// parseCPUs counts the CPUs of a list such as "0-3,8".
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
