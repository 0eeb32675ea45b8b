package render

import (
	"testing"
)

// TestMasqueradeOf: the masquerade class and its reason for every kind and policy.
func TestMasqueradeOf(t *testing.T) {
	for _, c := range []struct {
		kinds   []Kind
		service Service
		class   MasqueradeClass
		why     Reason
	}{
		{[]Kind{ClusterIP}, Service{}, MasqueradeNonPods, ToClusterIP},
		{[]Kind{ClusterIP}, Service{ExternalLocal: true, InternalLocal: true}, MasqueradeNonPods, ToClusterIP},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, Service{InternalLocal: true}, MasqueradeAll, ToOtherNodes},
		{[]Kind{NodePort, ExternalIP, LoadBalancer}, Service{ExternalLocal: true}, MasqueradeNodeSource, KeepTheirSource},
	} {
		for _, k := range c.kinds {
			if class, why := MasqueradeOf(k, c.service); class != c.class || why != c.why {
				t.Errorf("%s of %+v: class %d, %s; want %d, %s", k, c.service, class, why, c.class, c.why)
			}
		}
	}
}
