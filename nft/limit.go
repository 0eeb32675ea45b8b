package nft

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Limit is `limit rate over PACKETS/PER burst BURST packets`: it holds for the packets that exceed a rate. The kernel fills a bucket with
// PACKETS tokens in each period PER, up to BURST, and each packet that does not exceed the rate takes one (nft_limit_eval in
// net/netfilter/nft_limit.c). So at most BURST + PACKETS * t/PER packets pass in a time t.
type Limit struct {
	Packets uint64
	// Per is a second, a minute, an hour or a day.
	Per   time.Duration
	Burst uint32
}

// limitUnits are nft's names of the periods.
var limitUnits = [...]struct {
	per  time.Duration
	name string
}{{time.Second, "second"}, {time.Minute, "minute"}, {time.Hour, "hour"}, {24 * time.Hour, "day"}}

// Unit returns nft's name of the period: second, minute, hour or day, and "" for any other.
func (l Limit) Unit() string {
	for _, u := range limitUnits {
		if u.per == l.Per {
			return u.name
		}
	}
	return ""
}

// LimitPeriod returns the period that nft calls by a name, 0 for any other name.
func LimitPeriod(name string) time.Duration {
	for _, u := range limitUnits {
		if u.name == name {
			return u.per
		}
	}
	return 0
}

// String returns the limit as nft writes it.
func (l Limit) String() string {
	return fmt.Sprintf("limit rate over %d/%s burst %d packets", l.Packets, l.Unit(), l.Burst)
}

// limitBytes is the size of a limit as a Value.
const limitBytes = 8 + 8 + 4

// Value returns the limit as an element's data.
func (l Limit) Value() Value {
	b := make([]byte, 0, limitBytes)
	b = binary.BigEndian.AppendUint64(b, l.Packets)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Per))
	return Value(binary.BigEndian.AppendUint32(b, l.Burst))
}

// Limit returns the limit in the data of an element of a set of LimitType, the zero Limit for any other Value.
func (v Value) Limit() Limit {
	if len(v) != limitBytes {
		return Limit{}
	}
	b := []byte(v)
	return Limit{Packets: binary.BigEndian.Uint64(b), Per: time.Duration(binary.BigEndian.Uint64(b[8:])), Burst: binary.BigEndian.Uint32(b[16:])}
}
