package compare

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/integration/cluster"
	"nfproxy/integration/compare/record"
)

// measureWait starts the proxy while another process uses nf_tables in the same namespace, and measures the longest that a transaction
// of that process takes until the proxy is idle: the proxy's largest batch holds the mutex that every transaction needs. It measures
// the same beforehand, without a proxy.
func (r *trial) measureWait() {
	r.t.Helper()
	if err := r.population.last.serve(r.t.Context(), backendAddrs[0]); err != nil {
		r.t.Fatal(err)
	}
	quiet := r.longestWait(func() { time.Sleep(time.Second) })
	ok := true
	longest := r.longestWait(func() {
		p := r.start(r.proxy)
		if _, ok = r.awaitAnswer(p.begun, r.bound, r.population.last.frontend, backendAddrs[0]); ok {
			r.awaitIdle(p)
		}
	})
	if !ok {
		r.measurement(othersWait, record.Seconds, nil).Note = fmt.Sprintf("in the first %v of the start", r.bound)
	}
	r.add(othersWait, record.Seconds, nil, longest.Seconds())
	r.logf("another program waits for at most %v, without a proxy for %v", longest, quiet)
}

// longestWait runs f and returns the longest transaction of another process meanwhile.
func (r *trial) longestWait(f func()) time.Duration {
	r.t.Helper()
	path, err := exec.LookPath(otherUser)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	stop, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p := cluster.StartProcessIn(r.t, r.ns, cmd)
	f()
	stop.Close()
	err = <-p.Done
	p.Done <- err
	longest, invalid := time.ParseDuration(strings.TrimSpace(p.Log.String()))
	if err != nil || invalid != nil {
		r.t.Fatalf("%s: %v: %s", otherUser, err, p.Log)
	}
	return longest
}

// otherUser is the name of the program that transactUntilEOF is.
const otherUser = "other-nftables-user"

// transactUntilEOF is the main function of the other process. It makes a transaction each millisecond until its standard input ends,
// and prints how long the longest took. The kernel handles a transaction while it is being sent.
//
// The transactions are empty, so that they wait for the mutex, as all do (nf_tables_valid_genid in net/netfilter/nf_tables_api.c), but
// do not change the generation of the ruleset (nf_tables_commit): programs such as iptables would begin again.
func transactUntilEOF() {
	runtime.LockOSThread() // one thread, with a priority that lets it wake up beside a busy proxy
	longest, err := transact()
	if err != nil {
		fmt.Fprintln(os.Stderr, otherUser+":", err)
		os.Exit(1)
	}
	fmt.Println(longest)
}

func transact() (longest time.Duration, err error) {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, -20); err != nil {
		return 0, os.NewSyscallError("setpriority", err)
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	var ended atomic.Bool
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended.Store(true)
	}()
	batch := append(batchMessage(unix.NFNL_MSG_BATCH_BEGIN), batchMessage(unix.NFNL_MSG_BATCH_END)...)
	for !ended.Load() {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil) // a signal may end it early
		begun := time.Now()
		if err := unix.Sendto(s, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return 0, os.NewSyscallError("sendto", err)
		}
		longest = max(longest, time.Since(begun))
	}
	return longest, nil
}

// batchMessage returns a message without attributes for subsystem nf_tables: struct nlmsghdr and struct nfgenmsg.
func batchMessage(kind uint16) []byte {
	const length = unix.SizeofNlMsghdr + 4
	m := binary.NativeEndian.AppendUint32(nil, length)
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST)
	m = append(m, make([]byte, 8)...)                                  // sequence number and port
	m = append(m, unix.AF_UNSPEC, unix.NFNETLINK_V0)                   // family and version
	return binary.BigEndian.AppendUint16(m, unix.NFNL_SUBSYS_NFTABLES) // resource
}
