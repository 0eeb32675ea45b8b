package watcher

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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

// brief prints a Service as the tests want it: addresses, then one line per port.
func brief(s render.Service) []string {
	lines := []string{fmt.Sprint(s.ClusterIPs)}
	for _, p := range s.Ports {
		line := fmt.Sprintf("%s %d/%s", p.Name, p.Port, p.Protocol)
		for _, e := range p.Endpoints {
			line += " " + e.AddrPort.String()
			if !e.Ready {
				line += "!"
			}
		}
		lines = append(lines, line)
	}
	return lines
}

func TestReduceService(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		change   func(*corev1.Service)
		want     []string
		skipped  bool
		problems []Problem
	}{
		{name: "dual-stack", want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"}},
		{
			name:   "clusterIP alone",
			change: func(s *corev1.Service) { s.Spec.ClusterIPs = nil },
			want:   []string{"[10.96.0.1]", "http 80/tcp"},
		},
		{
			name:    "another proxy's",
			change:  func(s *corev1.Service) { s.Labels = map[string]string{labelServiceProxyName: ""} },
			skipped: true,
			problems: []Problem{{
				Field: "metadata.labels", Skipped: true,
				Detail: "the label service.kubernetes.io/service-proxy-name gives it to another proxy",
			}},
		},
		{
			name:     "headless",
			change:   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
			skipped:  true,
			problems: []Problem{{Field: "spec.clusterIP", Detail: "it is headless", Skipped: true}},
		},
		{
			name:    "external name",
			change:  func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
			skipped: true,
			problems: []Problem{{
				Field: "spec.type", Detail: "an ExternalName Service is a name in DNS and nothing else", Skipped: true,
			}},
		},
		{
			name:     "no cluster IP",
			change:   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
			skipped:  true,
			problems: []Problem{{Field: "spec.clusterIP", Detail: "it has no cluster IP", Skipped: true}},
		},
		{
			name:     "invalid IP loses its family alone",
			change:   func(s *corev1.Service) { s.Spec.ClusterIPs[0] = "10.96.0.300" },
			want:     []string{"[fd00::1]", "http 80/tcp"},
			problems: []Problem{{Field: "spec.clusterIPs[0]", Detail: `"10.96.0.300" is not an IP address`}},
		},
		{
			name:   "invalid clusterIP",
			change: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "x", nil },
			want:   []string{"[]", "http 80/tcp"}, problems: []Problem{{Field: "spec.clusterIP", Detail: `"x" is not an IP address`}},
		},
		{
			name:   "two of a family",
			change: func(s *corev1.Service) { s.Spec.ClusterIPs[1] = "10.96.0.2" },
			want:   []string{"[10.96.0.1]", "http 80/tcp"},
			problems: []Problem{{
				Field: "spec.clusterIPs[1]", Detail: "10.96.0.2 is the second IPv4 address, 10.96.0.1 is used",
			}},
		},
		{
			name: "addresses nobody connects to",
			change: func(s *corev1.Service) {
				s.Spec.ClusterIPs = []string{"0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "169.254.1.1", "fe80::1", "::ffff:10.0.0.1"}
			},
			want: []string{"[]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.clusterIPs[0]", Detail: "0.0.0.0 is the unspecified address"},
				{Field: "spec.clusterIPs[1]", Detail: ":: is the unspecified address"},
				{Field: "spec.clusterIPs[2]", Detail: "127.0.0.1 is a loopback address"},
				{Field: "spec.clusterIPs[3]", Detail: "::1 is a loopback address"},
				{Field: "spec.clusterIPs[4]", Detail: "224.0.0.1 is a multicast address"},
				{Field: "spec.clusterIPs[5]", Detail: "ff02::1 is a multicast address"},
				{Field: "spec.clusterIPs[6]", Detail: "169.254.1.1 is a link-local address"},
				{Field: "spec.clusterIPs[7]", Detail: "fe80::1 is a link-local address"},
				{Field: "spec.clusterIPs[8]", Detail: `"::ffff:10.0.0.1" is an IPv4 address written as IPv6`},
			},
		},
		{
			name: "bad ports leave the others",
			change: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{
					{Name: "a", Port: 0}, {Name: "b", Port: 65536}, {Name: "c", Port: -1},
					{Name: "d", Port: 53, Protocol: "ICMP"}, {Name: "a", Port: 53, Protocol: "udp"},
				}
			},
			want: []string{"[10.96.0.1 fd00::1]", "a 53/udp"},
			problems: []Problem{
				{Field: "spec.ports[0].port", Detail: "0 is not a port"},
				{Field: "spec.ports[1].port", Detail: "65536 is not a port"},
				{Field: "spec.ports[2].port", Detail: "-1 is not a port"},
				{Field: "spec.ports[3].protocol", Detail: `protocol "ICMP" is none of TCP, UDP, SCTP`},
			},
		},
		{
			name: "repeated ports",
			change: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{
					{Name: "a", Port: 53}, {Name: "b", Port: 53}, {Name: "a", Port: 53, Protocol: "UDP"}, {Name: "c", Port: 53, Protocol: "SCTP"},
				}
			},
			want: []string{"[10.96.0.1 fd00::1]", "a 53/tcp", "c 53/sctp"},
			problems: []Problem{
				{Field: "spec.ports[1].port", Detail: `53/tcp is there already as port "a"`},
				{Field: "spec.ports[2].name", Detail: `port 53/tcp has the name "a" already`},
			},
		},
		{
			name:   "nothing at all",
			change: func(s *corev1.Service) { s.Spec = corev1.ServiceSpec{ClusterIP: "10.96.0.1"} },
			want:   []string{"[10.96.0.1]"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := reduceService(apiService(tt.change))
			for i := range tt.problems {
				tt.problems[i].Object = "Service default/web"
			}
			if diff := cmp.Diff(tt.problems, got.problems, compare); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if got.skipped != tt.skipped {
				t.Fatalf("skipped: %v, want %v", got.skipped, tt.skipped)
			}
			if tt.skipped {
				return
			}
			if diff := cmp.Diff(tt.want, brief(join(got, nil))); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReduceSlice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		change   func(*discoveryv1.EndpointSlice)
		want     string // the Service's only port
		unused   bool
		problems []Problem
	}{
		{name: "plain", want: "http 80/tcp 10.1.0.1:8080"},
		{
			name: "no label", change: func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Detail: "no label kubernetes.io/service-name names its Service", Skipped: true,
			}},
		},
		{
			name:   "empty label",
			change: func(s *discoveryv1.EndpointSlice) { s.Labels[discoveryv1.LabelServiceName] = "" }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Detail: "no label kubernetes.io/service-name names its Service", Skipped: true,
			}},
		},
		{
			name:   "headless",
			change: func(s *discoveryv1.EndpointSlice) { s.Labels[corev1.IsHeadlessService] = "" }, unused: true,
			problems: []Problem{{
				Field: "metadata.labels", Skipped: true,
				Detail: "the label service.kubernetes.io/headless says that its Service is headless",
			}},
		},
		{
			name: "FQDN", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "FQDN" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: "names cannot be balanced, only addresses", Skipped: true}},
		},
		{
			name: "unknown addressType", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPv5" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: `"IPv5" is none of IPv4, IPv6, FQDN`}},
		},
		{
			name: "no addressType", change: func(s *discoveryv1.EndpointSlice) { s.AddressType = "" }, unused: true,
			problems: []Problem{{Field: "addressType", Detail: `"" is none of IPv4, IPv6, FQDN`}},
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
				{Field: "ports[3].port", Detail: "65536 is not a port"},
				{Field: "ports[4].port", Detail: "-1 is not a port"},
				{Field: "ports[5].protocol", Detail: `protocol "IGMP" is none of TCP, UDP, SCTP`},
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
				{Field: "endpoints[0].addresses", Detail: "there is no address"},
				{Field: "endpoints[1].addresses[0]", Detail: `"pod" is not an IP address`},
				{Field: "endpoints[2].addresses[0]", Detail: "fd00::5 is not of the slice's addressType IPv4"},
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
				Field: "endpoints[1].addresses[0]", Detail: "10.1.0.1 is not of the slice's addressType IPv6",
			}},
		},
		{
			name: "conditions",
			change: func(s *discoveryv1.EndpointSlice) {
				s.Endpoints = []discoveryv1.Endpoint{apiEndpoint("10.1.0.1"), apiEndpoint("10.1.0.2"), apiEndpoint("10.1.0.3")}
				s.Endpoints[1].Conditions.Ready = new(false)
				s.Endpoints[2].Conditions.Ready = new(true)
			},
			want: "http 80/tcp 10.1.0.1:8080 10.1.0.2:8080! 10.1.0.3:8080",
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
			joined := join(reduceService(apiService(nil)), []*slice{got})
			if diff := cmp.Diff([]string{"[10.96.0.1 fd00::1]", tt.want}, brief(joined)); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	svc := reduceService(apiService(func(s *corev1.Service) {
		s.CreationTimestamp = metav1.NewTime(created)
		s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: "UDP"}}
	}))
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
				{AddrPort: netip.MustParseAddrPort("10.1.0.8:8080"), Node: "n1"},
				{AddrPort: netip.MustParseAddrPort("10.1.0.9:8080"), Node: "n3", Ready: true},
				{AddrPort: netip.MustParseAddrPort("10.1.0.10:8080"), Node: "n1", Ready: true},
			}},
			{Name: "dns", Protocol: nft.UDP, Port: 53, Endpoints: []render.Endpoint{
				{AddrPort: netip.MustParseAddrPort("[fd00::1]:5353"), Ready: true},
				{AddrPort: netip.MustParseAddrPort("[fd00::2]:5353"), Ready: true},
			}},
		},
	}
	for range 20 {
		rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		got := join(svc, from)
		if diff := cmp.Diff(want, got, compare, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if !same(got, want) {
			t.Fatal("not the same")
		}
	}
}

func TestJoinServesWithoutSlices(t *testing.T) {
	t.Parallel()
	got := brief(join(reduceService(apiService(nil)), nil))
	if diff := cmp.Diff([]string{"[10.96.0.1 fd00::1]", "http 80/tcp"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An API object may be empty in every way the decoder lets through.
func TestReduceEmpty(t *testing.T) {
	t.Parallel()
	if s := reduceService(&corev1.Service{}); !s.skipped || s.Namespace != "default" {
		t.Errorf("service: %+v", s)
	}
	if s := reduceSlice(&discoveryv1.EndpointSlice{}); s.service != "" || s.namespace != "default" {
		t.Errorf("slice: %+v", s)
	}
}
