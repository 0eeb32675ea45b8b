//go:build linux

package controlplane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Stored is an object at a key below that of the API server in etcd, for example "services/specs/default/web". It needs its
// TypeMeta and whatever else the API server adds to an object.
type Stored struct {
	Key    string
	Object runtime.Object
}

// StoreLimit is the largest number of objects in one Store (--max-txn-ops of etcd).
const StoreLimit = 128

// Store writes objects to etcd in one transaction, as the API server would store them. Large numbers of Services are written this
// way because the API server counts all allocated addresses twice at each request for a Service (Allocator.Used in
// pkg/registry/core/service/ipallocator): 100,000 requests would take half an hour. The client must reach EtcdURL.
func Store(ctx context.Context, client *http.Client, objects []Stored) error {
	body, err := transaction(objects)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, EtcdURL+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("write %s and others to etcd: %s: %s", objects[0].Key, response.Status, text)
	}
	return err
}

// transaction returns the request that writes objects, in etcd's JSON.
func transaction(objects []Stored) ([]byte, error) {
	type operation struct {
		RequestPut struct {
			Key   []byte `json:"key"`
			Value []byte `json:"value"`
		} `json:"requestPut"`
	}
	var t struct {
		Success []operation `json:"success"`
	}
	for _, o := range objects {
		value, err := json.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		var put operation
		put.RequestPut.Key, put.RequestPut.Value = []byte("/registry/"+o.Key), value
		t.Success = append(t.Success, put)
	}
	return json.Marshal(t)
}

// Allocation returns the object by which the API server knows that a cluster IP belongs to a Service. It is stored before the
// Service, and a second before: the API server repairs Services whose addresses it does not know.
func Allocation(clusterIP, namespace, service string) Stored {
	return Stored{"ipaddresses/" + clusterIP, &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
		ObjectMeta: metav1.ObjectMeta{Name: clusterIP, UID: uuid.NewUUID(), CreationTimestamp: metav1.Now(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(corev1.IPv4Protocol), networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: namespace, Name: service}},
	}}
}
