//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"nfproxy/conntrack/ctnetlink"
	"nfproxy/nlmsg"
)

// Messages and attributes of connection tracking, from include/uapi/linux/netfilter/nfnetlink_conntrack.h and
// nf_conntrack_tcp.h.
const (
	ctNew            = 0 // IPCTNL_MSG_CT_NEW
	ctaTupleOrig     = 1
	ctaTupleReply    = 2
	ctaStatus        = 3
	ctaProtoInfo     = 4
	ctaTimeout       = 7
	ctaTupleIP       = 1
	ctaTupleProto    = 2
	ctaIPv4Source    = 1
	ctaIPv4Dest      = 2
	ctaProtoNumber   = 1
	ctaProtoSource   = 2
	ctaProtoDest     = 3
	ctaProtoInfoTCP  = 1
	ctaTCPState      = 1
	tcpEstablished   = 3           // TCP_CONNTRACK_ESTABLISHED
	answeredAssured  = 2 | 4 | 8   // IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED
	flowTimeout      = 1_000_000   // seconds, longer than any run
	flowsPerDatagram = 200         // messages that are sent at once
	refill           = time.Second // between two looks at the number of entries
)

// flows keeps a number of conntrack entries in the network namespace: connections of clients outside the cluster to
// Services, half of them UDP. nfproxy deletes UDP entries that lead to removed endpoints; run replaces them by other UDP
// entries.
type flows struct {
	population
	target int
	random *rand.Rand
	socket *nlmsg.Socket
	table  *ctnetlink.Conn

	next     uint32 // number of the next entry
	tcp      int    // TCP entries that were inserted
	inserted atomic.Int64
}

func newFlows(c population, target int, seed uint64) (*flows, error) {
	f := &flows{population: c, target: target, random: rand.New(rand.NewPCG(seed, 2))}
	var err error
	if f.socket, err = nlmsg.Dial(); err != nil {
		return nil, err
	}
	if f.table, err = ctnetlink.Open(); err != nil {
		return nil, errors.Join(err, f.socket.Close())
	}
	return f, nil
}

func (f *flows) close() error { return errors.Join(f.socket.Close(), f.table.Close()) }

// run inserts what is missing, once a second, until ctx ends.
func (f *flows) run(ctx context.Context) error {
	for ctx.Err() == nil {
		have, err := f.table.Count()
		if err != nil {
			return err
		}
		for missing := f.target - int(have); missing > 0; missing -= flowsPerDatagram {
			n := min(missing, flowsPerDatagram)
			if err := f.insert(n); err != nil {
				return err
			}
			f.inserted.Add(int64(n))
		}
		select {
		case <-ctx.Done():
		case <-time.After(refill):
		}
	}
	return nil
}

// insert inserts n entries. The kernel acknowledges only the last one; it reports an error of any.
func (f *flows) insert(n int) error {
	var m nlmsg.Message
	for i := range n {
		flags := uint16(unix.NLM_F_REQUEST | unix.NLM_F_CREATE)
		if i == n-1 {
			flags |= unix.NLM_F_ACK
		}
		f.socket.Seq++
		m.Begin(nlmsg.Type(unix.NFNL_SUBSYS_CTNETLINK, ctNew), flags, f.socket.Seq, unix.AF_INET, 0)
		f.appendEntry(&m)
		m.End()
	}
	if err := f.socket.Send(m.Buf); err != nil {
		return fmt.Errorf("insert flows: %w", err)
	}
	for {
		answers, err := f.socket.Receive(true)
		if err != nil {
			return fmt.Errorf("insert flows: %w", err)
		}
		for h, body := range nlmsg.Messages(answers) {
			if h.Type != unix.NLMSG_ERROR {
				continue
			}
			if code := int32(nlmsg.NativeUint32(body)); code != 0 && unix.Errno(-code) != unix.EEXIST {
				return fmt.Errorf("insert flows: %w", unix.Errno(-code))
			}
			if h.Seq == f.socket.Seq {
				return nil
			}
		}
	}
}

// appendEntry appends the attributes of one entry: a client with a new address and port has an answered connection to a
// random IPv4 frontend that leads to a backend of its pool.
func (f *flows) appendEntry(m *nlmsg.Message) {
	f.next++
	client := netip.AddrPortFrom(numbered(netip.MustParsePrefix("198.18.0.0/15"), f.next>>10&0xffff), uint16(1024+f.next&0x3ff))
	s := service(f.random.IntN(f.services))
	wantUDP := f.tcp >= f.target/2
	for s.udp() != wantUDP {
		s = (s + 1) % service(f.services)
	}
	server := netip.AddrPortFrom(backendAddr(s.backend(f.random.IntN(poolSize)), 0), backendPort)
	protocol := byte(unix.IPPROTO_TCP)
	if wantUDP {
		protocol = unix.IPPROTO_UDP
	}
	appendTuple(m, ctaTupleOrig, protocol, client, s.frontend(0))
	appendTuple(m, ctaTupleReply, protocol, server, client)
	m.Uint32(ctaStatus, answeredAssured)
	m.Uint32(ctaTimeout, flowTimeout)
	if !wantUDP {
		f.tcp++
		info := m.Nest(ctaProtoInfo)
		tcp := m.Nest(ctaProtoInfoTCP)
		m.Bytes(ctaTCPState, []byte{tcpEstablished})
		m.Unnest(tcp)
		m.Unnest(info)
	}
}

// appendTuple appends the addresses of one direction.
func appendTuple(m *nlmsg.Message, kind uint16, protocol byte, source, destination netip.AddrPort) {
	tuple := m.Nest(kind)
	ip := m.Nest(ctaTupleIP)
	m.Bytes(ctaIPv4Source, source.Addr().AsSlice())
	m.Bytes(ctaIPv4Dest, destination.Addr().AsSlice())
	m.Unnest(ip)
	proto := m.Nest(ctaTupleProto)
	m.Bytes(ctaProtoNumber, []byte{protocol})
	m.Uint16(ctaProtoSource, source.Port())
	m.Uint16(ctaProtoDest, destination.Port())
	m.Unnest(proto)
	m.Unnest(tuple)
}
