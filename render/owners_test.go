package render

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"nfproxy/nft"
)

// TestOwnersOfAnnotatedObjects: the sets and chains of limits and hashes belong to the Services whose annotations need them. If the
// kernel refuses one of them, for it lacks the expression, these Services are quarantined, and the others are programmed.
func TestOwnersOfAnnotatedObjects(t *testing.T) {
	limits := Limits{Rate: perSecond(1, 1), ClientRate: perSecond(2, 2)}
	plain := limitedService("plain", Limits{})
	limited, only, hashed := limitedService("limited", limits), limitedService("only", Limits{Rate: perSecond(3, 3)}), limitedService("hashed", Limits{})
	hashed.Hashing = HashClients
	for i, s := range []*Service{&limited, &only, &hashed} {
		s.ClusterIPs = []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i)})}
	}
	for _, running := range []bool{false, true} {
		for object, owners := range map[string]string{
			"set rates":      "ns/limited ns/only",
			"set over-limit": "ns/limited ns/only",
			"chain limited":  "ns/limited ns/only",
			"chain " + clientLimitChain + "2-second-2": "ns/limited",
			"set " + clientsSet + "2-second-2":         "ns/limited",
			"chain maglev-client-1021":                 "ns/hashed",
			"chain lb-2":                               "",
			"chain refuse":                             "",
			"set services":                             "",
		} {
			n := Node{Name: "n"}
			r := NewRuleset(n)
			if running {
				reconcile(r, nil)
			} else {
				r.Observe(nil)
			}
			r.Update(Update{Node: n, Services: []Service{plain, limited, only, hashed}})
			for _, c := range r.Plan() {
				if !changes(c, object) {
					continue
				}
				got := strings.Trim(fmt.Sprint(r.Owners(c)), "[]")
				if got != owners {
					t.Errorf("running %v: %s belongs to %q, not %q", running, object, got, owners)
				}
			}
			for _, name := range strings.Fields(owners) {
				namespace, name, _ := strings.Cut(name, "/")
				r.Quarantine(ServiceName{namespace, name})
			}
			after := r.Plan()
			if slices.ContainsFunc(after, func(c nft.Change) bool { return owners != "" && changes(c, object) }) {
				t.Errorf("running %v: in quarantine, %s is still planned", running, object)
			}
			r.Accept()
			for _, s := range []Service{plain, limited, only, hashed} {
				served := strings.Contains(r.Tables()[0].String(), `"`+Label(s.ServiceName, "")+`"`)
				if want := !strings.Contains(owners, s.ServiceName.String()); served != want {
					t.Errorf("running %v, without %s: %s is served: %v", running, object, s.ServiceName, served)
				}
			}
		}
	}
}

// changes reports whether a change is of a set, a chain or its rules.
func changes(c nft.Change, object string) bool {
	switch o := c.Object.(type) {
	case *nft.Set:
		return "set "+o.Name == object
	case *nft.Chain:
		return "chain "+o.Name == object
	case nft.Rules:
		return "chain "+o.Chain.Name == object
	}
	return false
}
