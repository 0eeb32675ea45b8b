package nft

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// HashSeed is the seed of all hashes, the same on every node, so that a client has the same hash everywhere.
const HashSeed = 0x6e667078

// clientHash returns the ClientHash of a source address: the hash scaled to a modulus (nft_jhash_eval in net/netfilter/nft_hash.c).
func clientHash(source netip.Addr, mod uint32) uint32 {
	return uint32(uint64(jhash(source.AsSlice(), HashSeed)) * uint64(mod) >> 32)
}

// jhash is the function of the same name in include/linux/jhash.h: Bob Jenkins' lookup3. Parts of twelve bytes are read in the byte
// order of the processor, the rest from the lowest byte on.
func jhash(key []byte, seed uint32) uint32 {
	a := 0xdeadbeef + uint32(len(key)) + seed
	b, c := a, a
	for ; len(key) > 12; key = key[12:] {
		a += binary.NativeEndian.Uint32(key)
		b += binary.NativeEndian.Uint32(key[4:])
		c += binary.NativeEndian.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
	}
	var rest [12]byte
	copy(rest[:], key)
	if len(key) == 0 {
		return c
	}
	return jhashFinal(a+binary.LittleEndian.Uint32(rest[:]), b+binary.LittleEndian.Uint32(rest[4:]), c+binary.LittleEndian.Uint32(rest[8:]))
}

// jhashMix is __jhash_mix.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	a, c = (a-c)^bits.RotateLeft32(c, 4), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 6), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 8), b+a
	a, c = (a-c)^bits.RotateLeft32(c, 16), c+b
	b, a = (b-a)^bits.RotateLeft32(a, 19), a+c
	c, b = (c-b)^bits.RotateLeft32(b, 4), b+a
	return a, b, c
}

// jhashFinal is __jhash_final; it returns c.
func jhashFinal(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}
