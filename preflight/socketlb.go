package preflight

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// socketHooks are the points of a cgroup at which a BPF program can replace the destination of a socket.
func socketHooks() []ebpf.AttachType {
	return []ebpf.AttachType{ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg,
		ebpf.AttachCGroupUDP6Sendmsg}
}

// socketLoadBalancers are the programs known for it, by the beginning of their programs' names.
func socketLoadBalancers() map[string]string {
	return map[string]string{"cil_sock": "Cilium", "sock4_connect": "Cilium", "sock6_connect": "Cilium", "calico_": "Calico", "cali_ctlb": "Calico"}
}

// socketLB checks for BPF programs that connect sockets to endpoints of Services themselves. The query needs CAP_NET_ADMIN and a
// seccomp profile that allows bpf(2); the names need CAP_SYS_ADMIN (kernel/bpf/syscall.c: bpf_prog_query and
// bpf_prog_get_fd_by_id).
func (n Node) socketLB() []Line {
	const advice = "run nfproxy check as root on the node, outside of a container"
	cgroup, err := n.Cgroup()
	if err != nil {
		return []Line{warning("socket-lb", "BPF programs of sockets cannot be found: no cgroup v2: %v", err).advise(advice)}
	}
	names, err := n.SocketPrograms(cgroup)
	switch {
	case err != nil:
		return []Line{warning("socket-lb", "BPF programs of sockets cannot be found: %v", err).advise(advice)}
	case len(names) == 0:
		return []Line{ok("socket-lb", "no BPF program replaces the destinations of sockets in %s", cgroup)}
	}
	return []Line{warning("socket-lb", "BPF programs in %s can connect sockets to endpoints of Services before nfproxy's rules see a packet: %s",
		cgroup, joinNames(names)).
		advise("switch the other service proxy off: for Cilium kubeProxyReplacement and socketLB.enabled, for Calico bpfEnabled; if it " +
			"was removed, detach its programs: bpftool cgroup tree, bpftool cgroup detach")}
}

// socketPrograms returns the names of the programs that apply to sockets of a cgroup, those of its ancestors included.
func socketPrograms(cgroup string) ([]string, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var names []string
	for _, hook := range socketHooks() {
		result, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: hook, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
		switch {
		case errors.Is(err, ebpf.ErrNotSupported): // the library's word for every failure of a first query
			return nil, errors.New("bpf(2) is not permitted, or the kernel lacks CONFIG_CGROUP_BPF")
		case err != nil:
			return nil, err
		}
		for _, p := range result.Programs {
			names = append(names, fmt.Sprintf("%s (%s)", programName(p.ID), hook))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// programName returns the name of a BPF program, and that of the service proxy it is known from. Without the right to read the
// name it returns the program's number.
func programName(id ebpf.ProgramID) string {
	unnamed := fmt.Sprintf("program %d", id)
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return unnamed
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return unnamed
	}
	for prefix, proxy := range socketLoadBalancers() {
		if strings.HasPrefix(info.Name, prefix) {
			return info.Name + " of " + proxy
		}
	}
	return info.Name
}

// cgroupRoot returns the directory at which cgroup v2 is mounted. In a container it is the container's own cgroup, to which the
// programs of its ancestors apply.
func cgroupRoot() (string, error) {
	mounts, err := procfs.GetMounts()
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if m.FSType == "cgroup2" {
			return m.MountPoint, nil
		}
	}
	return "", errors.New("it is not mounted")
}
