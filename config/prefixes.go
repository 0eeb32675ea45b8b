package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// parsePrefixes parses CIDRs separated by commas. Host bits are cleared.
func parsePrefixes(list string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for text := range strings.SplitSeq(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/16 or fd00::/64", text)
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is an IPv4 address written as IPv6", text)
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}
