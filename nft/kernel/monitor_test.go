package kernel

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/nft"
	"nfproxy/nlmsg"
)

// notification appends a notification about an object. names are the attributes 1, 2 and so on.
func notification(m *nlmsg.Message, kind uint16, family uint8, names ...string) {
	m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, kind), 0, 0, family, 0)
	for i, name := range names {
		m.String(uint16(i+1), name)
	}
	m.End()
}

// endOfCommit appends the notification that ends a commit.
func endOfCommit(m *nlmsg.Message, pid uint32, process string) {
	const procPID, procName = 2, 3 // NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME
	m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWGEN), 0, 0, unix.AF_UNSPEC, 0)
	m.Uint32(unix.NFTA_GEN_ID, 7)
	m.Uint32(procPID, pid)
	m.String(procName, process)
	m.End()
}

// TestTake: the notifications of a commit become one ExternalChange, with its first change and its author, if they are
// about the tables.
func TestTake(t *testing.T) {
	const v4, v6 = unix.NFPROTO_IPV4, unix.NFPROTO_IPV6
	for _, c := range []struct {
		name string
		send func(*nlmsg.Message)
		want string // empty if nothing is reported
	}{
		{"element", func(m *nlmsg.Message) { notification(m, unix.NFT_MSG_DELSETELEM, v4, "ours", "services") },
			"delete element ip ours services, by nft (pid 42)"},
		{"table", func(m *nlmsg.Message) { notification(m, unix.NFT_MSG_NEWTABLE, v6, "ours") }, "add table ip6 ours, by nft (pid 42)"},
		{"chain", func(m *nlmsg.Message) { // attribute 2 is its handle
			m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELCHAIN), 0, 0, v4, 0)
			m.String(unix.NFTA_CHAIN_TABLE, "ours")
			m.Uint64(unix.NFTA_CHAIN_HANDLE, 3)
			m.String(unix.NFTA_CHAIN_NAME, "lb-3")
			m.End()
		}, "delete chain ip ours lb-3, by nft (pid 42)"},
		{"several", func(m *nlmsg.Message) {
			notification(m, unix.NFT_MSG_NEWSET, v4, "other", "s")
			notification(m, unix.NFT_MSG_DELRULE, v4, "ours", "dispatch")
			notification(m, unix.NFT_MSG_DELRULE, v4, "ours", "refuse")
			notification(m, unix.NFT_MSG_DELSET, v6, "ours", "services")
		}, "delete rule ip ours dispatch and 2 more, by nft (pid 42)"},
		{"an object without a name of its own", func(m *nlmsg.Message) { notification(m, 25, v4, "ours", "x") },
			"change (message 25) of ip ours x, by nft (pid 42)"},
		{"table of another name", func(m *nlmsg.Message) { notification(m, unix.NFT_MSG_DELTABLE, v4, "other") }, ""},
		{"table of another family", func(m *nlmsg.Message) { notification(m, unix.NFT_MSG_DELTABLE, unix.NFPROTO_INET, "ours") }, ""},
		{"another subsystem", func(m *nlmsg.Message) {
			m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, unix.NFT_MSG_DELTABLE), 0, 0, v4, 0)
			m.String(1, "ours")
			m.End()
		}, ""},
		{"nothing", func(*nlmsg.Message) {}, ""},
	} {
		monitor := &Monitor{tables: []nft.TableID{{Family: nft.IPv4, Name: "ours"}, {Family: nft.IPv6, Name: "ours"}}}
		var changes, end nlmsg.Message
		c.send(&changes)
		endOfCommit(&end, 42, "nft")
		if got, ok := monitor.take(changes.Buf); ok { // a commit can be spread over several datagrams
			t.Errorf("%s: reported %v before the end of the commit", c.name, got)
		}
		got, ok := monitor.take(end.Buf)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s: reported %t %q, want %q", c.name, ok, got, c.want)
		}
		if got, ok := monitor.take(end.Buf); ok {
			t.Errorf("%s: reported %v again", c.name, got)
		}
	}
}

// newMonitor returns a Monitor that is not a member of any group. It needs no privilege.
func newMonitor(t *testing.T) *Monitor {
	t.Helper()
	s, err := nlmsg.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &Monitor{subscription: &subscription{nl: s}}
}

// TestMissed: each reportMissed before Next returns leads to one report, whether or not Next waits already, and leaves
// nothing behind that ends a later Next.
func TestMissed(t *testing.T) {
	m := newMonitor(t)
	for range 2 { // two calls, one report
		if err := m.reportMissed(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := m.Next(); err != nil || !got.Missed {
		t.Fatalf("Next: %v, %v", got, err)
	}
	reports, ended := make(chan ExternalChange), make(chan error, 1)
	go func() {
		for {
			x, err := m.Next()
			if err != nil {
				ended <- err
				return
			}
			reports <- x
		}
	}()
	select {
	case got := <-reports:
		t.Errorf("reported once more: %v", got)
	case err := <-ended:
		t.Fatalf("Next: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := m.reportMissed(); err != nil { // while Next waits
		t.Fatal(err)
	}
	if got := <-reports; !got.Missed {
		t.Errorf("reported %v", got)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestMissedWhileReceiving: a report of missed changes never makes Next fail, at whatever moment of a receive it comes.
func TestMissedWhileReceiving(t *testing.T) {
	m := newMonitor(t)
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := m.Next(); err != nil {
				ended <- err
				return
			}
		}
	}()
	// The kernel answers each request with a datagram that wakes Next and is about no table.
	var request nlmsg.Message
	request.Begin(nlmsg.Type(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN), unix.NLM_F_REQUEST|unix.NLM_F_ACK, 1, unix.AF_UNSPEC, 0)
	request.End()
	for range 20_000 {
		if err := m.nl.Send(request.Buf); err != nil {
			t.Fatal(err)
		}
		if err := m.reportMissed(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next failed before Close: %v", err)
	}
}
