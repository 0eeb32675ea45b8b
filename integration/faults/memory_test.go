package faults

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// refuses is the fault of a kernel without memory for datagrams that are long, if most is not 0, or that add elements of one of
// some Services, which their comments name.
func refuses(most int, services ...string) fault {
	return func(c call, _ int, datagram func() []byte) syscall.Errno {
		if c != send {
			return 0
		}
		b := datagram()
		if most != 0 && len(b) > most {
			return unix.ENOBUFS
		}
		for _, s := range services {
			if bytes.Contains(b, []byte("test/"+s+":p\x00")) {
				return unix.ENOMEM
			}
		}
		return 0
	}
}

// many returns the manifests of Services with ten endpoints.
func many(count int) (list []string) {
	for i := range count {
		list = append(list, service(fmt.Sprintf("many-%d", i), fmt.Sprintf("clusterIP: 10.96.%d.%d", 3+i>>8, i&0xff), "TCP", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
	}
	return list
}

// quarantined returns the Services that are quarantined according to the log.
func (n *node) quarantined() map[string]int {
	found := make(map[string]int)
	for _, line := range n.process.Log.Lines("the kernel refuses a Service") {
		_, name, _ := strings.Cut(line, "service=test/")
		name, _, _ = strings.Cut(name, " ")
		found[name]++
	}
	return found
}

// TestMemoryForOneService: a Service for whose rules the kernel has no memory is found among 300 by a bounded number of batches, at
// the start and later. It is quarantined alone and keeps what it had; all others are programmed. It gets its rules when there is
// memory.
func TestMemoryForOneService(t *testing.T) {
	n := newNode(t)
	defer n.stop()
	n.write(append(many(300), service("hostile", "clusterIP: 10.96.2.1", "TCP", 1, 2, 3))...)
	n.start(refuses(0, "hostile"))
	n.await("ten.96.4.43", func(state string) bool { return strings.Contains(state, "10.96.4.43 . tcp . 80 . 9") })
	if calls, failed, _, _ := n.seen(); failed == 0 || failed > 150 {
		t.Errorf("%d of %d sends failed", failed, calls[send])
	}
	state := n.state()
	for i := range 300 {
		if frontend := fmt.Sprintf("10.96.%d.%d . tcp . 80 . 9 :", 3+i>>8, i&0xff); !strings.Contains(state, frontend) {
			t.Fatalf("%s is missing", frontend)
		}
	}
	if got := n.quarantined(); len(got) != 1 || got["hostile"] == 0 || strings.Contains(state, "10.96.2.1 ") {
		t.Errorf("quarantined: %v", got)
	}
	n.set(nil)
	n.await("the hostile Service", func(state string) bool { return strings.Contains(state, "10.96.2.1 . tcp . 80 . 2 :") })

	n.set(refuses(0, "hostile"))
	n.write(append(many(200), service("hostile", "clusterIP: 10.96.2.1, externalIPs: [203.0.113.1]", "TCP", 1, 2), service("new", "clusterIP: 10.96.2.2", "TCP", 1))...)
	n.await("the update", func(state string) bool {
		return strings.Contains(state, "10.96.2.2 . tcp . 80 . 0 :") && !strings.Contains(state, "10.96.4.43 ")
	})
	if state := n.state(); !strings.Contains(state, "10.96.2.1 . tcp . 80 . 2 :") || strings.Contains(state, "203.0.113.1") {
		t.Errorf("the Service does not keep what it had:\n%s", state)
	}
	if got := n.quarantined(); len(got) != 1 {
		t.Errorf("quarantined: %v", got)
	}
}

// TestMemoryForLargeBatches: if the kernel takes only small batches, all Services are programmed in parts, and none is quarantined.
func TestMemoryForLargeBatches(t *testing.T) {
	n := newNode(t)
	defer n.stop()
	n.write(many(300)...)
	n.start(refuses(64 << 10))
	n.await("the last Service", func(state string) bool { return strings.Count(state, " . tcp . 80 . 9 :") == 300 })
	if got := n.quarantined(); len(got) != 0 {
		t.Errorf("quarantined: %v", got)
	}
}

// TestMemoryForNothing: while the kernel has no memory for any Service, a bounded number is quarantined, and each keeps what it had.
// When there is memory, all get their rules.
func TestMemoryForNothing(t *testing.T) {
	n := newNode(t)
	defer n.stop()
	n.write(many(100)...)
	n.start(nil)
	programmed := func(state string) bool { return strings.Count(state, " . tcp . 80 . 9 :") == 100 }
	n.await("the first load", programmed)
	n.rest()
	before := n.state()
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("many-%d", i))
	}
	n.set(refuses(0, names...))
	var changed []string
	for i, m := range many(100) {
		changed = append(changed, strings.Replace(m, "ports: [{name: p,", fmt.Sprintf("externalIPs: [203.0.113.%d], ports: [{name: p,", i), 1))
	}
	n.write(changed...)
	n.process.AwaitLog("memory is short; Services keep the rules that they had")
	if state := n.state(); state != before {
		t.Errorf("the state changed (-before +after):\n%s", difference(before, state))
	}
	if got := n.quarantined(); len(got) == 0 || len(got) > 8 {
		t.Errorf("quarantined: %v", got)
	}
	n.set(nil)
	n.write(many(99)...)
	n.await("the update", func(state string) bool { return strings.Count(state, " . tcp . 80 . 9 :") == 99 })
}
