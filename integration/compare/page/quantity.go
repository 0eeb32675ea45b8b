//go:build linux

package page

import (
	"math"
	"strconv"
	"strings"

	"nfproxy/integration/compare/record"
)

// prefix is a unit with which a value is written: the one that leaves at least 1 before the decimal point.
type prefix struct {
	name string
	of   float64
}

// prefixes are those of each unit, the largest first.
var prefixes = map[string][]prefix{
	record.Seconds:    {{"s", 1}, {"ms", 1e-3}, {"µs", 1e-6}, {"ns", 1e-9}},
	record.CPUSeconds: {{"s", 1}, {"ms", 1e-3}, {"µs", 1e-6}},
	record.Bytes:      {{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}},
	record.BitsPerSec: {{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3}},
	record.PerSecond:  {{"a second", 1}},
	record.Count:      {{"", 1}},
}

// quantity returns a value with its unit, to about two digits: "0.76 s" would be "760 ms".
func quantity(value float64, unit string) string {
	if value == 0 {
		return "0"
	}
	all, ok := prefixes[unit]
	if !ok {
		return short(value) + " " + unit
	}
	for _, p := range all {
		if math.Abs(value) >= p.of || p == all[len(all)-1] {
			return strings.TrimSpace(short(value/p.of) + " " + p.name)
		}
	}
	return ""
}

// short returns a number with two digits, or without a fraction if it has more digits.
func short(value float64) string {
	switch size := math.Abs(value); {
	case size == 0:
		return "0"
	case size >= 9.95:
		return Grouped(int(math.Round(value)))
	case size >= 0.0995:
		return strconv.FormatFloat(value, 'f', max(1, int(-math.Floor(math.Log10(size)))), 64)
	default:
		return strconv.FormatFloat(value, 'g', 2, 64)
	}
}

// Grouped returns an integer with commas between groups of three digits.
func Grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
