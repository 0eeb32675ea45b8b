package watcher

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/nft"
	"nfproxy/render"
)

// compare makes cmp treat addresses as values.
var compare = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

func apiService(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{
			ClusterIP:  "10.96.0.1",
			ClusterIPs: []string{"10.96.0.1", "fd00::1"},
			Ports:      []corev1.ServicePort{{Name: "http", Protocol: "TCP", Port: 80}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func apiSlice(name string, change func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080))}},
		Endpoints:   []discoveryv1.Endpoint{apiEndpoint("10.1.0.1")},
	}
	if change != nil {
		change(s)
	}
	return s
}

func apiEndpoint(addresses ...string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: addresses}
}

// brief formats a Service: a line with addresses and policies, then a line for each port.
func brief(s render.Service) []string {
	line := fmt.Sprint(s.ClusterIPs)
	for _, more := range []struct {
		name  string
		text  string
		there bool
	}{
		{"external", fmt.Sprint(s.ExternalIPs), len(s.ExternalIPs) > 0},
		{"balancer", fmt.Sprint(s.LoadBalancerIPs), len(s.LoadBalancerIPs) > 0},
		{"from", fmt.Sprint(s.SourceRanges), len(s.SourceRanges) > 0},
		{"internal", "local", s.InternalLocal},
		{"external", "local", s.ExternalLocal},
		{"health", fmt.Sprint(s.HealthCheckNodePort), s.HealthCheckNodePort != 0},
	} {
		if more.there {
			line += " " + more.name + " " + more.text
		}
	}
	lines := []string{line}
	for _, p := range s.Ports {
		line := fmt.Sprintf("%s %d/%s", p.Name, p.Port, p.Protocol)
		if p.NodePort != 0 {
			line += fmt.Sprintf(" at nodes %d", p.NodePort)
		}
		for _, e := range p.Endpoints {
			line += " " + briefEndpoint(e)
		}
		lines = append(lines, line)
	}
	return lines
}

// briefEndpoint formats an endpoint: ! not ready, - not serving, ~ terminating, {zones; nodes} hints.
func briefEndpoint(e render.Endpoint) string {
	text := e.AddrPort.String()
	if !e.Ready {
		text += "!"
	}
	if !e.Serving {
		text += "-"
	}
	if e.Terminating {
		text += "~"
	}
	if e.Hints != nil {
		text += "{" + strings.Join(e.Hints.Zones, " ") + "; " + strings.Join(e.Hints.Nodes, " ") + "}"
	}
	return text
}

func TestJoin(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	svc := reduceService(apiService(func(s *corev1.Service) {
		s.CreationTimestamp = metav1.NewTime(created)
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: "UDP"}}
	}), render.Instance{})
	notReady := func(address, node string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			Addresses: []string{address}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: new(false)},
		}
	}
	ready := func(address, node string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node}
	}
	from := []*slice{
		reduceSlice(apiSlice("web-a", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = []discoveryv1.Endpoint{
				notReady("10.1.0.9", "n1"), ready("10.1.0.10", "n1"), ready("10.1.0.10", "n2"), notReady("10.1.0.8", "n1"),
			}
		})),
		reduceSlice(apiSlice("web-b", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = []discoveryv1.Endpoint{ready("10.1.0.9", "n3"), notReady("10.1.0.10", "n3"), notReady("10.1.0.8", "n3")}
		})),
		reduceSlice(apiSlice("web-c", func(s *discoveryv1.EndpointSlice) {
			s.AddressType = discoveryv1.AddressTypeIPv6
			s.Ports = []discoveryv1.EndpointPort{{Name: new("dns"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(5353))}}
			s.Endpoints = []discoveryv1.Endpoint{apiEndpoint("fd00::2"), apiEndpoint("fd00::1")}
		})),
	}
	want := render.Service{
		ServiceName: render.ServiceName{Namespace: "default", Name: "web"},
		Created:     created,
		ClusterIPs:  []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")},
		Ports: []render.Port{
			{Name: "http", Protocol: nft.TCP, Port: 80, Endpoints: []render.Endpoint{
				{AddrPort: netip.MustParseAddrPort("10.1.0.8:8080"), Node: "n1", Serving: true},
				{AddrPort: netip.MustParseAddrPort("10.1.0.9:8080"), Node: "n3", Ready: true, Serving: true},
				{AddrPort: netip.MustParseAddrPort("10.1.0.10:8080"), Node: "n1", Ready: true, Serving: true},
			}},
			{Name: "dns", Protocol: nft.UDP, Port: 53, Endpoints: []render.Endpoint{
				{AddrPort: netip.MustParseAddrPort("[fd00::1]:5353"), Ready: true, Serving: true},
				{AddrPort: netip.MustParseAddrPort("[fd00::2]:5353"), Ready: true, Serving: true},
			}},
		},
	}
	for range 20 {
		rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		got := join(render.Node{}, svc, from)
		if diff := cmp.Diff(want, got, compare, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if !equal(got, want) {
			t.Fatal("equal reports a difference")
		}
	}
}

// TestJoinRepeatedEndpoint: of an address and port in several slices one endpoint is kept.
func TestJoinRepeatedEndpoint(t *testing.T) {
	t.Parallel()
	endpoint := func(node string, ready, terminating bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{
			Addresses: []string{"10.1.0.1"}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating},
		}
	}
	tests := []struct {
		name string
		from [][]discoveryv1.Endpoint // by slice, in name order
		want string                   // the node of the endpoint that is kept
	}{
		{"staying before terminating", [][]discoveryv1.Endpoint{{endpoint("a", true, true)}, {endpoint("b", false, false)}}, "b"},
		{"ready before not ready", [][]discoveryv1.Endpoint{{endpoint("a", false, false)}, {endpoint("b", true, false)}}, "b"},
		{"ready before not ready, terminating", [][]discoveryv1.Endpoint{{endpoint("a", false, true)}, {endpoint("b", true, true)}}, "b"},
		{"first slice", [][]discoveryv1.Endpoint{{endpoint("a", true, false)}, {endpoint("b", true, false)}}, "a"},
		{"first in a slice", [][]discoveryv1.Endpoint{{endpoint("a", false, true), endpoint("b", false, true)}}, "a"},
		{"three", [][]discoveryv1.Endpoint{{endpoint("a", true, true)}, {endpoint("b", false, false), endpoint("c", true, false)}}, "c"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var from []*slice
			for i, endpoints := range tt.from {
				from = append(from, reduceSlice(apiSlice(fmt.Sprintf("web-%d", i), func(s *discoveryv1.EndpointSlice) { s.Endpoints = endpoints })))
			}
			for range 2 {
				got := join(render.Node{}, reduceService(apiService(nil), render.Instance{}), from).Ports[0].Endpoints
				if len(got) != 1 || got[0].Node != tt.want {
					t.Errorf("%v, want the endpoint of %s", got, tt.want)
				}
				slices.Reverse(from)
			}
		})
	}
}

// TestEqualComparesEveryField: a change of any field makes Services unequal; otherwise it would not be reported. Both sides
// are built separately, so that values are compared and not pointers.
func TestEqualComparesEveryField(t *testing.T) {
	t.Parallel()
	build := func() render.Service {
		return render.Service{Ports: []render.Port{{Endpoints: []render.Endpoint{{Hints: &render.Hints{Zones: []string{"z"}, Nodes: []string{"n"}}}}}}}
	}
	if !equal(build(), build()) {
		t.Fatal("equal Services are reported as different")
	}
	parts := map[string]func(*render.Service) reflect.Value{
		"Service":  func(s *render.Service) reflect.Value { return reflect.ValueOf(s) },
		"Port":     func(s *render.Service) reflect.Value { return reflect.ValueOf(&s.Ports[0]) },
		"Endpoint": func(s *render.Service) reflect.Value { return reflect.ValueOf(&s.Ports[0].Endpoints[0]) },
		"Hints":    func(s *render.Service) reflect.Value { return reflect.ValueOf(s.Ports[0].Endpoints[0].Hints) },
	}
	for name, part := range parts {
		count := part(new(build())).Elem().NumField()
		for i := range count {
			changed := build()
			field := part(&changed).Elem().Field(i)
			set(t, field)
			if equal(build(), changed) || equal(changed, build()) {
				t.Errorf("%s.%s is not compared", name, part(&changed).Elem().Type().Field(i).Name)
			}
		}
	}
}

// set changes the value of a field.
func set(t *testing.T, field reflect.Value) {
	t.Helper()
	switch value := field.Addr().Interface().(type) {
	case *render.ServiceName:
		value.Name += "x"
	case *render.Limits:
		value.Drop = !value.Drop
	case *time.Time:
		*value = value.Add(time.Second)
	case *netip.AddrPort:
		*value = netip.MustParseAddrPort("10.1.0.1:1")
	default:
		switch field.Kind() {
		case reflect.Int64:
			field.SetInt(field.Int() + 1)
		case reflect.String:
			field.SetString(field.String() + "x")
		case reflect.Bool:
			field.SetBool(!field.Bool())
		case reflect.Uint8, reflect.Uint16:
			field.SetUint(field.Uint() + 1)
		case reflect.Slice:
			field.Set(reflect.Append(field, reflect.New(field.Type().Elem()).Elem()))
		case reflect.Pointer:
			field.SetZero()
		default:
			t.Fatalf("unknown field type %s", field.Type())
		}
	}
}

func TestJoinServesWithoutSlices(t *testing.T) {
	t.Parallel()
	got := brief(join(render.Node{}, reduceService(apiService(nil), render.Instance{}), nil))
	if diff := cmp.Diff([]string{"[10.96.0.1 fd00::1]", "http 80/tcp"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestReduceEmpty: empty API objects are reduced without a panic.
func TestReduceEmpty(t *testing.T) {
	t.Parallel()
	if s := reduceService(&corev1.Service{}, render.Instance{}); !s.skipped || s.Namespace != "default" {
		t.Errorf("service: %+v", s)
	}
	if s := reduceSlice(&discoveryv1.EndpointSlice{}); s.service != "" || s.namespace != "default" {
		t.Errorf("slice: %+v", s)
	}
}
