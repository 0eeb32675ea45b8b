package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Backends is a Service and pods that all serve it; the test chooses which of them are in the Service's EndpointSlice.
type Backends struct {
	*Cluster
	Frontend string                     // cluster IP and port
	Slice    *discoveryv1.EndpointSlice // as the API server stored it last
	Addrs    []string                   // of the pods, which serve at port 8080
}

// AddBackends creates a Service and n pods that greet with their addresses. The EndpointSlice is empty.
func (c *Cluster) AddBackends(name string, n int) *Backends {
	c.T.Helper()
	s, err := c.CoreV1().Services("default").Create(c.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	b := &Backends{Cluster: c, Frontend: s.Spec.ClusterIP + ":80"}
	for i := range n {
		addr := fmt.Sprintf("10.244.7.%d", i+1)
		pod := c.AddPod("default", fmt.Sprintf("%s-%d", name, i), nil, addr)
		ServeGreeting(c.T, pod, addr+":8080", addr)
		b.Addrs = append(b.Addrs, addr)
	}
	port := int32(8080)
	b.Slice, err = c.DiscoveryV1().EndpointSlices("default").Create(c.T.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	return b
}

// Serve makes the pods with these addresses the endpoints of the Service.
func (b *Backends) Serve(addrs ...string) {
	b.T.Helper()
	b.Slice.Endpoints = nil
	metav1.SetMetaDataAnnotation(&b.Slice.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, time.Now().Format(time.RFC3339Nano))
	for _, a := range addrs {
		node := NodeName
		b.Slice.Endpoints = append(b.Slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node})
	}
	var err error
	if b.Slice, err = b.DiscoveryV1().EndpointSlices("default").Update(b.T.Context(), b.Slice, metav1.UpdateOptions{}); err != nil {
		b.T.Fatal(err)
	}
}

// AwaitEndpoints waits until the kernel has exactly these endpoints for the Service.
func (b *Backends) AwaitEndpoints(addrs ...string) {
	b.T.Helper()
	var want []string
	for _, a := range addrs {
		want = append(want, a+":8080")
	}
	b.AwaitFrontend(b.Frontend, want...)
}

// AwaitFrontend waits until the kernel has exactly these endpoints ("address:port") for a TCP frontend.
func (c *Cluster) AwaitFrontend(frontend string, want ...string) {
	c.T.Helper()
	slices.Sort(want)
	EventuallyTrue(c.T, fmt.Sprintf("the endpoints of %s are %s", frontend, want), func() (bool, string) {
		out, _ := Command(c.T, "dump").CombinedOutput() // fails if there are no tables
		var have []string
		for line := range strings.Lines(string(out)) {
			if fields := strings.Fields(line); strings.Contains(line, " "+frontend+"/tcp ") && len(fields) > 6 {
				have = strings.FieldsFunc(strings.Join(fields[6:], ""), func(r rune) bool { return r == ',' || r == '*' })
			}
		}
		slices.Sort(have)
		return slices.Equal(have, want), fmt.Sprintf("they are %s", have)
	})
}
