package preflight

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"nfproxy/nft/kernel"
)

// legacyTable is a table of iptables-legacy, which nftables does not show: its own chains and its rules without connection tracking.
type legacyTable struct {
	kernel.SurveyedTable
	Untracked []untrackedPackets
}

// legacyTables returns the tables of iptables-legacy in the calling thread's network namespace. It reads only tables that the kernel
// lists, because reading another one creates it.
func (n Node) legacyTables() ([]legacyTable, error) {
	var all []legacyTable
	for _, f := range []legacyFormat{legacyIPv4, legacyIPv6} {
		names, err := n.read(threadProc + "/net/" + f.names)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		for name := range strings.FieldsSeq(names) {
			t, err := n.LegacyTable(f, name)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", f.family, name, err)
			}
			all = append(all, f.table(name, t))
		}
	}
	return all, nil
}

// legacyFormat is what differs between the families: struct ipt_entry and struct ip6t_entry, with struct ipt_ip and struct ip6t_ip6
// (include/uapi/linux/netfilter_ipv4/ip_tables.h and netfilter_ipv6/ip6_tables.h). The numbers are offsets of fields.
type legacyFormat struct {
	family, names                            string
	domain, level                            int
	address                                  int // size
	sourceMask, destination, destinationMask int
	inverted, target, next                   int
}

// The formats. These variables are never changed.
var (
	legacyIPv4 = legacyFormat{family: "ip", names: "ip_tables_names", domain: unix.AF_INET, level: unix.SOL_IP, address: 4,
		destination: 4, sourceMask: 8, destinationMask: 12, inverted: 83, target: 88, next: 90}
	legacyIPv6 = legacyFormat{family: "ip6", names: "ip6_tables_names", domain: unix.AF_INET6, level: unix.SOL_IPV6, address: 16,
		destination: 16, sourceMask: 32, destinationMask: 48, inverted: 132, target: 140, next: 142}
)

// legacyInfo is struct ipt_getinfo and struct ip6t_getinfo.
type legacyInfo struct {
	Name       [32]byte
	ValidHooks uint32
	HookEntry  [5]uint32
	Underflow  [5]uint32
	NumEntries uint32
	Size       uint32
}

// legacyEntries are the entries of a table, one after the other, and the offsets at which the chains of hooks begin.
type legacyEntries struct {
	info    legacyInfo
	entries []byte
}

// Options of getsockopt(2), the same for both families: IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES.
const (
	legacyGetInfo    = 64
	legacyGetEntries = 65
)

// readLegacyTable reads a table. It needs CAP_NET_ADMIN.
func readLegacyTable(f legacyFormat, name string) (legacyEntries, error) {
	var t legacyEntries
	s, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return t, err
	}
	defer unix.Close(s)
	for range 5 { // another program can change the table between the two calls
		info := make([]byte, unsafe.Sizeof(legacyInfo{}))
		copy(info, name)
		if err := getsockopt(s, f.level, legacyGetInfo, info); err != nil {
			return t, err
		}
		if _, err := binary.Decode(info, binary.NativeEndian, &t.info); err != nil {
			return t, err
		}
		const head = 40 // struct ipt_get_entries: the name and the size, aligned to 8 bytes
		request := make([]byte, head+t.info.Size)
		copy(request, name)
		binary.NativeEndian.PutUint32(request[32:], t.info.Size)
		switch err := getsockopt(s, f.level, legacyGetEntries, request); {
		case err == nil:
			t.entries = request[head:]
			return t, nil
		case !errors.Is(err, unix.EAGAIN):
			return t, err
		}
	}
	return t, unix.EAGAIN
}

// getsockopt is getsockopt(2) with a buffer that holds the request and then the answer.
func getsockopt(s, level, option int, buffer []byte) error {
	size := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s), uintptr(level), uintptr(option), uintptr(unsafe.Pointer(&buffer[0])),
		uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// table returns the chains and the rules without connection tracking among the entries of a table. A chain that is not of a hook begins
// with an entry whose target is ERROR, with the chain's name; the last entry is ERROR, too.
func (f legacyFormat) table(name string, t legacyEntries) legacyTable {
	table := legacyTable{SurveyedTable: kernel.SurveyedTable{Family: f.family, Name: name}}
	chain := ""
	for at := 0; at+f.next+2 <= len(t.entries); {
		for hook, begin := range t.info.HookEntry {
			if t.info.ValidHooks&(1<<hook) != 0 && int(begin) == at {
				chain = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}[hook]
			}
		}
		next := int(binary.NativeEndian.Uint16(t.entries[at+f.next:]))
		target := int(binary.NativeEndian.Uint16(t.entries[at+f.target:]))
		if next <= target || target <= f.next || at+next > len(t.entries) {
			break // not an entry
		}
		entry := t.entries[at : at+next]
		at += next
		if len(entry) < target+targetHead {
			continue
		}
		switch data := entry[target+targetHead:]; cString(entry[target+2 : target+targetHead-1]) {
		case "ERROR":
			if chain = cString(data); at < len(t.entries) {
				table.Chains = append(table.Chains, kernel.SurveyedChain{Name: chain})
			}
		case "CT":
			if len(data) > 1 && binary.NativeEndian.Uint16(data)&1 != 0 { // XT_CT_NOTRACK
				table.Untracked = append(table.Untracked, f.untracked(table, chain, entry)...)
			}
		case "NOTRACK":
			table.Untracked = append(table.Untracked, f.untracked(table, chain, entry)...)
		}
	}
	return table
}

// targetHead is the size of struct xt_entry_target: the size, the name and the revision.
const targetHead = 32

// cString returns the text of a C string in a field of fixed size.
func cString(field []byte) string {
	text, _, _ := bytes.Cut(field, []byte{0})
	return string(text)
}

// untracked returns the packets of an entry without connection tracking, none if it compares the source address alone.
func (f legacyFormat) untracked(t legacyTable, chain string, entry []byte) []untrackedPackets {
	const invertedDestination = 0x10 // IPT_INV_DSTIP, IP6T_INV_DSTIP
	field := func(at int) []byte { return entry[at : at+f.address] }
	packets := untrackedPackets{chain: t.String() + " " + chain}
	whole := bytes.Repeat([]byte{0xff}, f.address)
	switch {
	case bytes.Equal(field(f.destinationMask), whole) && entry[f.inverted]&invertedDestination == 0:
		packets.to, _ = netip.AddrFromSlice(field(f.destination))
	case bytes.Equal(field(f.destinationMask), make([]byte, f.address)) && bytes.Equal(field(f.sourceMask), whole):
		return nil
	}
	return []untrackedPackets{packets}
}
