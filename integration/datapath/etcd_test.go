package datapath

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"

	"nfproxy/integration/controlplane"
	"nfproxy/sandbox"
)

// The Services to which nobody connects are written to etcd, as the API server would store them: at each request for a Service it counts
// all allocated addresses (Allocator.Used in pkg/registry/core/service/ipallocator), and 30,000 requests would take half an hour.

// newEtcdClient returns a client of the etcd in a namespace.
func newEtcdClient(ns *sandbox.Namespace) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return ns.Dial(ctx, network, "", address)
	}}}
}

// stored is an object at a key below that of the API server.
type stored struct {
	key    string
	object runtime.Object
}

// otherAddr returns the cluster IP of a Service to which nobody connects.
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
	for i := from; i < to; i += 100 { // etcd allows 128 operations in a transaction
		var addresses []stored
		for n := i; n < min(i+100, to); n++ {
			addresses = append(addresses, p.allocation(n))
		}
		check(p.t, p.put(addresses))
	}
	time.Sleep(time.Second) // until the API server knows the addresses
	for i := from; i < to; i += 50 {
		var services []stored
		for n := i; n < min(i+50, to); n++ {
			services = append(services, p.other(n)...)
		}
		check(p.t, p.put(services))
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

// allocation returns the object by which the API server knows that a cluster IP is allocated.
func (p *population) allocation(i int) stored {
	addr := otherAddr(i)
	return stored{"ipaddresses/" + addr, &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{Name: addr, UID: uuid.NewUUID(), CreationTimestamp: metav1.Now(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: otherName(i)}},
	}}
}

// other returns a Service and its EndpointSlice: like the first one of group plain, with other names and addresses.
func (p *population) other(i int) []stored {
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
	return []stored{{"services/specs/default/" + name, s}, {"endpointslices/default/" + name, e}}
}

// put writes objects in one transaction.
func (p *population) put(all []stored) error {
	type operation struct {
		RequestPut struct {
			Key   []byte `json:"key"`
			Value []byte `json:"value"`
		} `json:"requestPut"`
	}
	var transaction struct {
		Success []operation `json:"success"`
	}
	for _, s := range all {
		value, err := json.Marshal(s.object)
		if err != nil {
			return err
		}
		var put operation
		put.RequestPut.Key, put.RequestPut.Value = []byte("/registry/"+s.key), value
		transaction.Success = append(transaction.Success, put)
	}
	body, err := json.Marshal(transaction)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, controlplane.EtcdURL+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := p.etcd.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("write %s and others to etcd: %s: %s", all[0].key, response.Status, text)
	}
	return err
}
