package render

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"nfproxy/nft"
)

// Frontend is an address, port and protocol at which a Service is reached.
type Frontend struct {
	netip.AddrPort
	Protocol nft.Protocol
}

// FrontendOf returns the frontend of a key of the services map.
func FrontendOf(key nft.Value) Frontend {
	n := len(key) - 3
	return Frontend{netip.AddrPortFrom(key[:n].Addr(), key[n+1:].Uint16()), key[n : n+1].Proto()}
}

// Key returns the key of the frontend in the services map.
func (f Frontend) Key() nft.Value {
	return nft.Addr(f.Addr()) + nft.Proto(f.Protocol) + nft.Port(f.Port())
}

// frontendOf returns the frontend key that the key of a member begins with, "" for members of sets without frontends and for
// catch-all elements.
func frontendOf(m nft.Member) nft.Value {
	if len(m.Set.Key) < 3 || m.Key == "" {
		return ""
	}
	return m.Key[:m.Set.Key[0].Width()+m.Set.Key[1].Width()+m.Set.Key[2].Width()]
}

// FrontendIn returns the frontend that the key of an element begins with. It returns false for a set without frontends. The set
// may be one of another schema version or another program.
func FrontendIn(s *nft.Set, key nft.Value) (Frontend, bool) {
	addr := s.Table.Family.AddrType()
	n := addr.Width() + 3
	if len(s.Key) < 3 || s.Key[0] != addr || s.Key[1] != nft.InetProto || s.Key[2] != nft.InetService || len(key) < n {
		return Frontend{}, false
	}
	return FrontendOf(key[:n]), true
}

// slotKey returns the key of a slot of a frontend.
func slotKey(frontend nft.Value, slot int) nft.Value { return frontend + nft.Slot(uint16(slot)) }

// slotOf returns the slot of a member of a map with slots.
func slotOf(m nft.Member) int { return int(m.Key[len(frontendOf(m)):].Uint16()) }

// SlotsOf returns the elements of a frontend among the sorted elements of an endpoints map, in order of their slots.
func SlotsOf(elements []nft.Element, frontend nft.Value) []nft.Element {
	first, _ := slices.BinarySearchFunc(elements, frontend, func(e nft.Element, key nft.Value) int {
		return strings.Compare(string(e.Key), string(key))
	})
	last := first
	for last < len(elements) && strings.HasPrefix(string(elements[last].Key), string(frontend)) {
		last++
	}
	return elements[first:last]
}

// endpointValue returns an endpoint as data of a map.
func endpointValue(e Endpoint) nft.Value { return nft.Value(appendEndpoint(nil, e.AddrPort)) }

// appendEndpoint appends an endpoint as data of a map.
func appendEndpoint(data []byte, e netip.AddrPort) []byte {
	if addr := e.Addr(); addr.Is4() {
		four := addr.As4()
		data = append(data, four[:]...)
	} else {
		sixteen := addr.As16()
		data = append(data, sixteen[:]...)
	}
	return binary.BigEndian.AppendUint16(data, e.Port())
}

// frontendRangeKey returns the key of a range of sources of a frontend.
func frontendRangeKey(frontend nft.Value, sources netip.Prefix) nft.Value {
	i := nft.Interval(sources)
	return frontend + i[:len(i)/2] + frontend + i[len(i)/2:]
}
