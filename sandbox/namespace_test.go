//go:build linux

package sandbox_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"nfproxy/sandbox"
)

// inode returns the inode number of n.
func inode(t *testing.T, n *sandbox.Namespace) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(n.Fd(), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

// here returns the inode number of the calling thread's namespace.
func here() (uint64, error) {
	var stat unix.Stat_t
	err := unix.Stat("/proc/thread-self/ns/net", &stat)
	return stat.Ino, err
}

// goexit runs a function in n that ends its goroutine.
func goexit(n *sandbox.Namespace) error {
	return n.Do(func() error { runtime.Goexit(); return nil })
}

// TestDo: a function runs in the namespace of Do, and other goroutines outside
// it, even if functions end their goroutines.
func TestDo(t *testing.T) {
	n := namespace(t)
	outer, err := here()
	if err != nil {
		t.Fatal(err)
	}
	inner := inode(t, n)
	if inner == outer {
		t.Fatal("the new namespace is that of the test")
	}
	expect := func(want uint64) error {
		if got, err := here(); err != nil || got != want {
			return fmt.Errorf("in namespace %d, %v; want %d", got, err, want)
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%10 == 0 {
				goexit(n)
			}
			if err := n.Do(func() error { return expect(inner) }); err != nil {
				t.Error("in Do:", err)
			}
		})
		wg.Go(func() {
			for range 20 {
				if err := expect(outer); err != nil {
					t.Error("beside Do:", err)
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	want := errors.New("of f")
	if err := n.Do(func() error { return want }); err != want {
		t.Errorf("Do returned %v, want f's error", err)
	}
	n.Close()
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("Do in a closed namespace returned no error")
	}
}

func BenchmarkDo(b *testing.B) {
	n, err := sandbox.NewNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer n.Close()
	for b.Loop() {
		if err := n.Do(func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNothingLeft: Close leaves no open descriptor and no link, neither in the
// node's namespace nor outside it.
func TestNothingLeft(t *testing.T) {
	outer, err := sandbox.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	node := namespace(t)
	links, files := linkNames(t, outer), descriptors(t)
	forward := read(t, outer, "/proc/sys/net/ipv4/ip_forward")

	w, err := sandbox.NewNetwork(node, nodeAddrs...)
	if err != nil {
		t.Fatal(err)
	}
	a := pod(t, w, "a", clientAddrs...)
	pod(t, w, "b", serverAddrs...)
	if got := linkNames(t, outer); !slices.Equal(got, links) {
		t.Errorf("links outside: %v, want %v", got, links)
	}
	if got := read(t, outer, "/proc/sys/net/ipv4/ip_forward"); got != forward {
		t.Errorf("ip_forward outside: %s, want %s", got, forward)
	}
	if err := w.RemovePod(a); err != nil {
		t.Fatal(err)
	}
	if got := linkNames(t, node); !slices.Equal(got, []string{"lo", "pod2", "uplink0"}) {
		t.Errorf("links in the node after RemovePod: %v", got)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := linkNames(t, node); !slices.Equal(got, []string{"lo"}) {
		t.Errorf("links in the node after Close: %v", got)
	}
	if got := descriptors(t); !slices.Equal(got, files) {
		t.Errorf("open descriptors after Close: %v, want %v", got, files)
	}
	if a.Fd() != -1 {
		t.Errorf("descriptor of the removed pod: %d, want -1", a.Fd())
	}
}
