package watcher

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"nfproxy/render"
)

func TestReduceSlice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		change   func(*discoveryv1.EndpointSlice)
		want     string // the Service's port
		unused   bool
		problems []Problem
	}{
		{name: "plain", want: "http 80/tcp 10.1.0.1:8080"},
		{
			name: "no label", change: func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Detail: "the label kubernetes.io/service-name is missing", Skipped: true,
			}},
		},
		{
			name:   "empty label",
			change: func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "" }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Detail: "the label kubernetes.io/service-name is missing", Skipped: true,
			}},
		},
		{
			name:   "headless",
			change: func(s *discoveryv1.EndpointSlice) { s.Labels[corev1.IsHeadlessService] = "" }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Skipped: true,
				Detail: "the label service.kubernetes.io/headless marks its Service as headless",
			}},
		},
		{
			name: "FQDN", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "FQDN" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: "FQDN endpoints are not supported", Skipped: true}},
		},
		{
			name: "unknown addressType", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPv5" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: `"IPv5" is not one of IPv4, IPv6, FQDN`}},
		},
		{
			name: "no addressType", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: `"" is not one of IPv4, IPv6, FQDN`}},
		},
		{
			name: "ports",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Ports = []discoveryv1.EndpointPort{
					{},
					{Name: new("http")},
					{Name: new("http"), Port: new(int32(0))},
					{Name: new("http"), Port: new(int32(65536))},
					{Name: new("http"), Port: new(int32(-1))},
					{Name: new("http"), Port: new(int32(1)), Protocol: new(corev1.Protocol("IGMP"))},
					{Name: new("http"), Port: new(int32(2)), Protocol: new(corev1.ProtocolUDP)},
					{Port: new(int32(3))},
					{Name: new("http"), Port: new(int32(4)), Protocol: new(corev1.ProtocolTCP)},
				}
			},
			want: "http 80/tcp 10.1.0.1:4",
			problems: []Problem{
				{Field: "ports[3].port", Detail: "65536 is not a port number"},
				{Field: "ports[4].port", Detail: "-1 is not a port number"},
				{Field: "ports[5].protocol", Detail: `protocol "IGMP" is not one of TCP, UDP, SCTP`},
			},
		},
		{
			name: "addresses",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = []discoveryv1.Endpoint{
					{}, apiEndpoint("pod"), apiEndpoint("fd00::5"), apiEndpoint("::ffff:10.0.0.1"), apiEndpoint("0.0.0.0"),
					apiEndpoint("127.1.0.1"), apiEndpoint("169.254.0.1"), apiEndpoint("239.0.0.1"), apiEndpoint(""),
					apiEndpoint("10.001.00.010", "10.9.9.9"), apiEndpoint("10.1.0.2"),
				}
			},
			want: "http 80/tcp 10.1.0.2:8080 10.1.0.10:8080",
			problems: []Problem{
				{Field: "endpoints[0].addresses", Detail: "no address"},
				{Field: "endpoints[1].addresses[0]", Detail: `"pod" is not an IP address`},
				{Field: "endpoints[2].addresses[0]", Detail: "fd00::5 does not match the addressType IPv4 of the slice"},
				{Field: "endpoints[3].addresses[0]", Detail: `"::ffff:10.0.0.1" is an IPv4 address written as IPv6`},
				{Field: "endpoints[4].addresses[0]", Detail: "0.0.0.0 is the unspecified address"},
				{Field: "endpoints[5].addresses[0]", Detail: "127.1.0.1 is a loopback address"},
				{Field: "endpoints[6].addresses[0]", Detail: "169.254.0.1 is a link-local address"},
				{Field: "endpoints[7].addresses[0]", Detail: "239.0.0.1 is a multicast address"},
				{Field: "endpoints[8].addresses[0]", Detail: `"" is not an IP address`},
			},
		},
		{
			name: "IPv6",
			change: func(s *discoveryv1.EndpointSlice) {
				s.AddressType = discoveryv1.AddressTypeIPv6
				s.Endpoints = []discoveryv1.Endpoint{apiEndpoint("fd00::5"), apiEndpoint("10.1.0.1")}
			},
			want: "http 80/tcp [fd00::5]:8080",
			problems: []Problem{{
				Field: "endpoints[1].addresses[0]", Detail: "10.1.0.1 does not match the addressType IPv6 of the slice",
			}},
		},
		{
			name: "conditions",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = nil
				for i, c := range []discoveryv1.EndpointConditions{
					{},
					{Ready: new(false)},
					{Ready: new(true)},
					{Serving: new(true), Terminating: new(false)},
					{Ready: new(false), Serving: new(true), Terminating: new(true)},
					{Ready: new(false), Serving: new(false), Terminating: new(true)},
				} {
					e := apiEndpoint(fmt.Sprintf("10.1.0.%d", i+1))
					e.Conditions = c
					s.Endpoints = append(s.Endpoints, e)
				}
			},
			want: "http 80/tcp 10.1.0.1:8080 10.1.0.2:8080! 10.1.0.3:8080 10.1.0.4:8080 10.1.0.5:8080!~ 10.1.0.6:8080!-~",
		},
		{
			name: "hints",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = nil
				for i, h := range []*discoveryv1.EndpointHints{
					nil,
					{},
					{ForZones: []discoveryv1.ForZone{{Name: ""}}, ForNodes: []discoveryv1.ForNode{{}}},
					{ForZones: []discoveryv1.ForZone{{Name: "b"}, {}, {Name: "a"}}},
					{ForNodes: []discoveryv1.ForNode{{}, {Name: "n1"}}},
					{ForZones: []discoveryv1.ForZone{{Name: "a"}}, ForNodes: []discoveryv1.ForNode{{Name: "n1"}, {Name: "n2"}}},
				} {
					e := apiEndpoint(fmt.Sprintf("10.1.0.%d", i+1))
					e.Hints = h
					s.Endpoints = append(s.Endpoints, e)
				}
			},
			want: "http 80/tcp 10.1.0.1:8080 10.1.0.2:8080 10.1.0.3:8080 10.1.0.4:8080{b a; } 10.1.0.5:8080{; n1} 10.1.0.6:8080{a; n1 n2}",
		},
		{
			name: "fields that are not read",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Ports[0].AppProtocol = new("https")
				s.Endpoints[0].Hostname, s.Endpoints[0].Zone = new("web-0"), new("z1")
				s.Endpoints[0].TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: "web-0"}
				s.Endpoints[0].DeprecatedTopology = map[string]string{"kubernetes.io/hostname": "n1"}
			},
			want: "http 80/tcp 10.1.0.1:8080",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := reduceSlice(apiSlice("web-1", tt.change))
			for i := range tt.problems {
				tt.problems[i].Object = "EndpointSlice default/web-1"
			}
			if diff := cmp.Diff(tt.problems, got.problems, compare); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if (got.service == "") != tt.unused {
				t.Fatalf("service is %q", got.service)
			}
			if tt.unused {
				return
			}
			joined := join(render.Node{}, reduceService(apiService(nil), render.Instance{}), []*slice{got})
			if diff := cmp.Diff([]string{"[10.96.0.1 fd00::1]", tt.want}, brief(joined)); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
		})
	}
}
