//go:build linux

package main

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// The addresses of the cluster. A Service with index i has the address number i+1 of each Service network.
var (
	serviceNetworks = [2]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/108")}
	podNetworks     = [2]netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")}
	nodeAddrs       = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")}
)

const (
	nodeName    = "node-a"
	servicePort = 80
	backendPort = 8080

	backendPods     = 16
	backendsPerPod  = 8
	backends        = backendPods * backendsPerPod
	poolSize        = 6 // endpoints that a Service can have
	mostEndpoints   = 4
	minServices     = 200
	affinityTimeout = 60 // seconds
)

// class is what happens to a Service during the run.
type class int

const (
	calm     class = iota // it never changes, and clients connect to it
	changing              // its endpoints change, and clients connect to it
	passing               // its endpoints change, it is deleted and created, and elements of it are deleted by another program
)

func (c class) String() string { return [...]string{"calm", "changing", "passing"}[c] }

// population tells everything about a Service that does not change, by its index.
type population struct{ services int }

// first returns the index of the first Service of a class. The classes follow each other.
func (c population) first(of class) int {
	calmServices := min(c.services/20, 1000)
	changingServices := min(c.services/10, 5000)
	return [...]int{0, calmServices, calmServices + changingServices, c.services}[of]
}

// count returns the number of Services of a class.
func (c population) count(of class) int { return c.first(of+1) - c.first(of) }

// service is the index of a Service.
type service int

func (s service) name() string { return "service-" + strconv.Itoa(int(s)) }

// Every fourth Service serves UDP, every 25th has session affinity and every tenth both families.
func (s service) udp() bool       { return s%4 == 1 }
func (s service) affinity() bool  { return s%25 == 3 }
func (s service) dualStack() bool { return s%10 == 7 }

// addr returns the cluster IP of a family: 0 for IPv4, 1 for IPv6.
func (s service) addr(family int) netip.Addr { return numbered(serviceNetworks[family], uint32(s)+1) }

// frontend returns the cluster IP of a family and the port.
func (s service) frontend(family int) netip.AddrPort {
	return netip.AddrPortFrom(s.addr(family), servicePort)
}

// backend returns the backend at a position of the Service's pool, less than poolSize. The backends of a pool differ,
// because 17 has no divisor in common with their number.
func (s service) backend(position int) int { return (int(s)*31 + position*17) % backends }

// serves reports whether an address belongs to a backend of the Service's pool.
func (s service) serves(addr netip.Addr) bool {
	for position := range poolSize {
		for family := range podNetworks {
			if backendAddr(s.backend(position), family) == addr {
				return true
			}
		}
	}
	return false
}

// backendAddr returns an address of a backend.
func backendAddr(backend, family int) netip.Addr {
	return numbered(podNetworks[family], 0x1000+uint32(backend))
}

// numbered returns the address with a number in a network.
func numbered(network netip.Prefix, number uint32) netip.Addr {
	bytes := network.Addr().AsSlice()
	last := bytes[len(bytes)-4:]
	binary.BigEndian.PutUint32(last, binary.BigEndian.Uint32(last)+number)
	addr, _ := netip.AddrFromSlice(bytes)
	return addr
}
