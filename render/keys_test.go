package render

import (
	"net/netip"
	"testing"

	"nfproxy/nft"
)

// TestFrontendKeys: FrontendOf and frontendIn return the frontend that Key wrote.
func TestFrontendKeys(t *testing.T) {
	for _, f := range []Frontend{
		{netip.MustParseAddrPort("10.96.0.1:53"), nft.UDP},
		{netip.MustParseAddrPort("[fd00:10:96::1]:65535"), nft.SCTP},
	} {
		sc := SchemaOf(Family(f.Addr()))
		if got := FrontendOf(f.Key()); got != f {
			t.Errorf("FrontendOf returns %v, want %v", got, f)
		}
		m := nft.Member{Set: sc.Endpoints, Element: nft.Element{Key: slotKey(f.Key(), 300)}}
		if got, ok := FrontendIn(m.Set, m.Key); !ok || got != f || frontendOf(m) != f.Key() || slotOf(m) != 300 {
			t.Errorf("the slot belongs to %v, %t, and is %d, want slot 300 of %v", got, ok, slotOf(m), f)
		}
		if got, ok := FrontendIn(sc.ClusterIPs, nft.Addr(f.Addr())); ok {
			t.Errorf("a cluster IP has the frontend %v", got)
		}
	}
}
