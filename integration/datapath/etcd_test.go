package datapath

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// newEtcdClient returns a client of the etcd in a namespace.
func newEtcdClient(ns *sandbox.Namespace) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return ns.Dial(ctx, network, "", address)
	}}}
}

// otherAddr returns the cluster IP of a Service to which no client connects.
func otherAddr(i int) string {
	return netip.AddrFrom4([4]byte{10, 96, byte(64 + i>>8), byte(i)}).String()
}

func otherName(i int) string { return fmt.Sprintf("other-%d", i) }

// storeOthers writes Services with three endpoints, from number from to below to, and waits until the API server serves the last one.
// Their addresses come first: the API server repairs Services whose addresses it does not know.
func (p *population) storeOthers(from, to int) {
	p.t.Helper()
	if from == to {
		return
	}
	for i := from; i < to; i += controlplane.StoreLimit {
		var addresses []controlplane.Stored
		for n := i; n < min(i+controlplane.StoreLimit, to); n++ {
			addresses = append(addresses, controlplane.Allocation(otherAddr(n), "default", otherName(n)))
		}
		check(p.t, controlplane.Store(p.t.Context(), p.etcd, addresses))
	}
	time.Sleep(time.Second) // see controlplane.Allocation
	for i := from; i < to; i += controlplane.StoreLimit / 2 {
		var services []controlplane.Stored
		for n := i; n < min(i+controlplane.StoreLimit/2, to); n++ {
			services = append(services, p.other(n)...)
		}
		check(p.t, controlplane.Store(p.t.Context(), p.etcd, services))
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := p.api.DiscoveryV1().EndpointSlices("default").Get(p.t.Context(), otherName(to-1), metav1.GetOptions{ResourceVersion: "0"})
		if err == nil {
			return
		}
		if !apierrors.IsNotFound(err) || time.Now().After(deadline) {
			p.t.Fatalf("the API server does not serve what is in etcd: %v", err)
		}
	}
}

// other returns a Service and its EndpointSlice: like the first one of group plain, with other names and addresses.
func (p *population) other(i int) []controlplane.Stored {
	name, addr := otherName(i), otherAddr(i)
	s := p.services[plain][0].DeepCopy()
	s.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	s.Name, s.UID, s.ResourceVersion = name, uuid.NewUUID(), ""
	s.Spec.ClusterIP, s.Spec.ClusterIPs = addr, []string{addr}
	var endpoints []netip.Addr
	for e := range 3 {
		endpoints = append(endpoints, netip.AddrFrom4([4]byte{10, 128 + byte(i>>14), byte(i >> 6), byte(i<<2 + e)}))
	}
	e := endpointSlice(s, endpoints, "another-node")
	e.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	e.Namespace, e.UID, e.CreationTimestamp, e.Generation = "default", uuid.NewUUID(), metav1.Now(), 1
	return []controlplane.Stored{{Key: "services/specs/default/" + name, Object: s}, {Key: "endpointslices/default/" + name, Object: e}}
}
