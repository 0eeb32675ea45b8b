package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// backends is a Service with Pods that all serve, of which its EndpointSlice has some.
type backends struct {
	*testCluster
	frontend string
	slice    *discoveryv1.EndpointSlice
	addrs    []string
}

// addBackends creates the Service and n Pods that greet with their addresses. None is an endpoint yet.
func (c *testCluster) addBackends(name string, n int) *backends {
	c.t.Helper()
	s, err := c.CoreV1().Services("default").Create(c.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	b := &backends{testCluster: c, frontend: s.Spec.ClusterIP + ":80"}
	for i := range n {
		addr := fmt.Sprintf("10.244.7.%d", i+1)
		pod := c.addPod("default", fmt.Sprintf("%s-%d", name, i), nil, addr)
		greet(c.t, pod, addr+":8080", addr)
		b.addrs = append(b.addrs, addr)
	}
	port := int32(8080)
	b.slice, err = c.DiscoveryV1().EndpointSlices("default").Create(c.t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(string), Port: &port}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// serve makes some of the Pods the Service's endpoints.
func (b *backends) serve(addrs ...string) {
	b.t.Helper()
	b.slice.Endpoints = nil
	metav1.SetMetaDataAnnotation(&b.slice.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, time.Now().Format(time.RFC3339Nano))
	for _, a := range addrs {
		node := clusterNode
		b.slice.Endpoints = append(b.slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: &node})
	}
	var err error
	if b.slice, err = b.DiscoveryV1().EndpointSlices("default").Update(b.t.Context(), b.slice, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// programmed waits until the kernel has these endpoints and no others.
func (b *backends) programmed(addrs ...string) {
	b.t.Helper()
	var want []string
	for _, a := range addrs {
		want = append(want, a+":8080")
	}
	b.programmedAt(b.frontend, want...)
}

// programmedAt waits until a frontend has these endpoints in the kernel and no others.
func (c *testCluster) programmedAt(frontend string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	eventuallyTrue(c.t, fmt.Sprint("the endpoints are ", want), func() (bool, string) {
		out, _ := nfproxy(c.t, "dump").CombinedOutput() // without tables it fails
		var have []string
		for line := range strings.Lines(string(out)) {
			if fields := strings.Fields(line); strings.Contains(line, " "+frontend+"/tcp ") && len(fields) > 6 {
				have = strings.FieldsFunc(strings.Join(fields[6:], ""), func(r rune) bool { return r == ',' || r == '*' })
			}
		}
		slices.Sort(have)
		return slices.Equal(have, want), fmt.Sprint("they are ", have)
	})
}
