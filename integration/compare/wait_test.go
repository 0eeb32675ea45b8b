package compare

import (
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/integration/compare/record"
)

// measureWait starts the proxy while another program uses nf_tables in the same namespace, and measures the longest that a transaction
// of that program takes until the proxy is idle: the proxy's largest batch holds the mutex that every transaction needs. It measures
// the same beforehand, without a proxy.
func (r *trial) measureWait() {
	t := r.t
	t.Helper()
	if err := r.population.last.serve(t.Context(), backendAddrs[0]); err != nil {
		t.Fatal(err)
	}
	quiet, err := r.longestWait(func() { time.Sleep(time.Second) })
	if err != nil {
		t.Fatal(err)
	}
	ok := true
	var p *process
	longest, err := r.longestWait(func() {
		p = r.start(r.proxy)
		if _, ok = r.awaitAnswer(p.begun, r.bound, r.population.last.frontend, backendAddrs[0]); ok {
			p.awaitIdle(r.bound)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !ok {
		r.measurement(othersWait, record.Seconds, nil).Note = "the start was not waited for"
	}
	r.add(othersWait, record.Seconds, nil, longest.Seconds())
	r.logf("another program waits for at most %v, without a proxy for %v", longest, quiet)
}

// longestWait runs f and returns the longest transaction of another program meanwhile.
func (r *trial) longestWait(f func()) (time.Duration, error) {
	stop, result, longest := make(chan struct{}), make(chan error), time.Duration(0)
	go func() {
		result <- r.ns.Do(func() (err error) {
			longest, err = transact(stop)
			return err
		})
	}()
	f()
	close(stop)
	err := <-result
	return longest, err
}

// between is the time between two transactions.
const between = time.Millisecond

// transact makes transactions in the network namespace of the calling thread until stop, and returns how long the longest took. The
// kernel handles a transaction while it is being sent.
//
// They are empty, so that they wait for the mutex, as all do (nf_tables_valid_genid in net/netfilter/nf_tables_api.c), but do not
// change the generation of the ruleset (nf_tables_commit): programs such as iptables would begin again.
func transact(stop <-chan struct{}) (time.Duration, error) {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(s)
	batch := append(batchMessage(unix.NFNL_MSG_BATCH_BEGIN), batchMessage(unix.NFNL_MSG_BATCH_END)...)
	longest := time.Duration(0)
	for {
		select {
		case <-stop:
			return longest, nil
		case <-time.After(between):
		}
		begun := time.Now()
		if err := unix.Sendto(s, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return 0, os.NewSyscallError("sendto", err)
		}
		longest = max(longest, time.Since(begun))
	}
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
