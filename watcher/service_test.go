package watcher

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"nfproxy/render"
)

// balance gives a Service the type LoadBalancer and load balancer addresses.
func balance(s *corev1.Service, ips ...string) {
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	for _, ip := range ips {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
}

// notALabel is the message of the API server for a port name that is not a DNS label.
const notALabel = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end " +
	"with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"

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
			name:    "for another proxy",
			change:  func(s *corev1.Service) { s.Labels = map[string]string{labelServiceProxyName: ""} },
			skipped: true,
			problems: []Problem{{
				Field: "metadata.labels", Skipped: true,
				Detail: "the label service.kubernetes.io/service-proxy-name assigns it to another proxy",
			}},
		},
		{
			name:     "headless",
			change:   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} },
			skipped:  true,
			problems: []Problem{{Field: "spec.clusterIP", Detail: "headless", Skipped: true}},
		},
		{
			name:     "external name",
			change:   func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
			skipped:  true,
			problems: []Problem{{Field: "spec.type", Detail: "an ExternalName Service exists only in DNS", Skipped: true}},
		},
		{
			name:     "no cluster IP",
			change:   func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil },
			skipped:  true,
			problems: []Problem{{Field: "spec.clusterIP", Detail: "no cluster IP", Skipped: true}},
		},
		{
			name:   "an invalid IP affects only its family",
			change: func(s *corev1.Service) { s.Spec.ClusterIPs[0] = "10.96.0.300" },
			want:   []string{"[fd00::1]", "http 80/tcp"}, problems: []Problem{{Field: "spec.clusterIPs[0]", Detail: `"10.96.0.300" is not an IP address`}},
		},
		{
			name:   "invalid clusterIP",
			change: func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "x", nil },
			want:   []string{"[]", "http 80/tcp"}, problems: []Problem{{Field: "spec.clusterIP", Detail: `"x" is not an IP address`}},
		},
		{
			name:     "two of a family",
			change:   func(s *corev1.Service) { s.Spec.ClusterIPs[1] = "10.96.0.2" },
			want:     []string{"[10.96.0.1]", "http 80/tcp"},
			problems: []Problem{{Field: "spec.clusterIPs[1]", Detail: "10.96.0.2 is a second IPv4 address, 10.96.0.1 is used"}},
		},
		{
			name: "addresses that no client can connect to",
			change: func(s *corev1.Service) {
				s.Spec.ClusterIPs = []string{"0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:169.254.1.1"}
			},
			want: []string{"[]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.clusterIPs[0]", Detail: "0.0.0.0 is the unspecified address"},
				{Field: "spec.clusterIPs[1]", Detail: ":: is the unspecified address"},
				{Field: "spec.clusterIPs[2]", Detail: "127.0.0.1 is a loopback address"},
				{Field: "spec.clusterIPs[3]", Detail: "::1 is a loopback address"},
				{Field: "spec.clusterIPs[4]", Detail: "224.0.0.1 is a multicast address"},
				{Field: "spec.clusterIPs[5]", Detail: "ff02::1 is a multicast address"},
				{Field: "spec.clusterIPs[6]", Detail: "255.255.255.255 is the broadcast address"},
				{Field: "spec.clusterIPs[7]", Detail: `"::ffff:169.254.1.1" is an IPv4 address written as IPv6`},
			},
		},
		{
			name:   "link-local cluster IPs",
			change: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"169.254.1.1", "fe80::1"} },
			want:   []string{"[169.254.1.1 fe80::1]", "http 80/tcp"},
		},
		{
			name: "invalid ports do not affect the others",
			change: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{
					{Name: "a", Port: 0}, {Name: "b", Port: 65536}, {Name: "c", Port: -1},
					{Name: "d", Port: 53, Protocol: "ICMP"}, {Name: "a", Port: 53, Protocol: "udp"},
				}
			},
			want: []string{"[10.96.0.1 fd00::1]", "a 53/udp"},
			problems: []Problem{
				{Field: "spec.ports[0].port", Detail: "0 is not a port number"},
				{Field: "spec.ports[1].port", Detail: "65536 is not a port number"},
				{Field: "spec.ports[2].port", Detail: "-1 is not a port number"},
				{Field: "spec.ports[3].protocol", Detail: `protocol "ICMP" is not one of TCP, UDP, SCTP`},
			},
		},
		{
			name: "invalid port names",
			change: func(s *corev1.Service) {
				s.Spec.Ports = []corev1.ServicePort{{Name: "a\"\n\x1b", Port: 80}, {Name: "a/b", Port: 81}, {Name: strings.Repeat("a", 64), Port: 82}, {Name: "a", Port: 83}}
			},
			want: []string{"[10.96.0.1 fd00::1]", "a 83/tcp"},
			problems: []Problem{
				{Field: "spec.ports[0].name", Detail: `"a\"\n\x1b" is not a valid port name: ` + notALabel},
				{Field: "spec.ports[1].name", Detail: `"a/b" is not a valid port name: ` + notALabel},
				{Field: "spec.ports[2].name", Detail: `"` + strings.Repeat("a", 64) + `" is not a valid port name: must be no more than 63 characters`},
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
				{Field: "spec.ports[1].port", Detail: `53/tcp is already used by port "a"`},
				{Field: "spec.ports[2].name", Detail: `port 53/tcp already has the name "a"`},
			},
		},
		{
			name:   "external IPs",
			change: func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"fd00:9::1", "192.0.2.2", "192.0.2.1"} },
			want:   []string{"[10.96.0.1 fd00::1] external [fd00:9::1 192.0.2.2 192.0.2.1]", "http 80/tcp"},
		},
		{
			name: "invalid external IPs do not affect the others",
			change: func(s *corev1.Service) {
				s.Spec.ExternalIPs = []string{"192.0.2.1", "192.0.002.1", "x", "127.0.0.1", "::", "169.254.0.1", "ff02::1", "192.0.2.2"}
			},
			want: []string{"[10.96.0.1 fd00::1] external [192.0.2.1 192.0.2.2]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.externalIPs[1]", Detail: "192.0.2.1 is listed twice"},
				{Field: "spec.externalIPs[2]", Detail: `"x" is not an IP address`},
				{Field: "spec.externalIPs[3]", Detail: "127.0.0.1 is a loopback address"},
				{Field: "spec.externalIPs[4]", Detail: ":: is the unspecified address"},
				{Field: "spec.externalIPs[5]", Detail: "169.254.0.1 is a link-local address"},
				{Field: "spec.externalIPs[6]", Detail: "ff02::1 is a multicast address"},
			},
		},
		{
			name: "load balancer",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1", "fd00:9::1", "192.0.2.3", "")
				s.Status.LoadBalancer.Ingress[0].IPMode = new(corev1.LoadBalancerIPModeVIP)
				s.Status.LoadBalancer.Ingress[2].IPMode = new(corev1.LoadBalancerIPModeProxy)
				s.Status.LoadBalancer.Ingress[3].Hostname = "lb.example"
				s.Spec.LoadBalancerSourceRanges = []string{" 203.0.113.77/24", "10.0.0.0/8\t", "0.0.0.0/0"}
			},
			want: []string{"[10.96.0.1 fd00::1] balancer [192.0.2.1 fd00:9::1] from [203.0.113.0/24 10.0.0.0/8 0.0.0.0/0]", "http 80/tcp"},
		},
		{
			name: "invalid load balancer addresses do not affect the others",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1", "192.0.2.1", "fe80::1", "x", "192.0.2.2", "192.0.2.3")
				s.Status.LoadBalancer.Ingress[4].IPMode = new(corev1.LoadBalancerIPMode("Both"))
			},
			want: []string{"[10.96.0.1 fd00::1] balancer [192.0.2.1 192.0.2.3]", "http 80/tcp"},
			problems: []Problem{
				{Field: "status.loadBalancer.ingress[1].ip", Detail: "192.0.2.1 is listed twice"},
				{Field: "status.loadBalancer.ingress[2].ip", Detail: "fe80::1 is a link-local address"},
				{Field: "status.loadBalancer.ingress[3].ip", Detail: `"x" is not an IP address`},
				{Field: "status.loadBalancer.ingress[4].ipMode", Detail: `"Both" is not one of VIP, Proxy`},
			},
		},
		{
			name: "invalid source ranges do not affect the others",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1", "fd00:9::1")
				s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/33", "10.0.0.1", "", "::ffff:10.0.0.0/104", "fd00::1/64", "010.0.0.7/8"}
			},
			want: []string{"[10.96.0.1 fd00::1] balancer [192.0.2.1 fd00:9::1] from [fd00::/64 10.0.0.0/8]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.loadBalancerSourceRanges[0]", Detail: `"10.0.0.0/33" is not a CIDR`},
				{Field: "spec.loadBalancerSourceRanges[1]", Detail: `"10.0.0.1" is not a CIDR`},
				{Field: "spec.loadBalancerSourceRanges[2]", Detail: `"" is not a CIDR`},
				{Field: "spec.loadBalancerSourceRanges[3]", Detail: `"::ffff:10.0.0.0/104" is an IPv4 range written as IPv6`},
			},
		},
		{
			name: "a family without a valid source range admits no source",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1", "fd00:9::1", "192.0.2.2")
				s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/33", "fd00::/64"}
			},
			want: []string{"[10.96.0.1 fd00::1] balancer [fd00:9::1] from [fd00::/64]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.loadBalancerSourceRanges[0]", Detail: `"10.0.0.0/33" is not a CIDR`},
				{Field: "spec.loadBalancerSourceRanges", Detail: "no IPv4 range is valid, so the IPv4 addresses of the load balancer are not served"},
			},
		},
		{
			name: "source ranges of the other family do not restrict",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1")
				s.Spec.LoadBalancerSourceRanges = []string{"fd00::/64"}
			},
			want: []string{"[10.96.0.1 fd00::1] balancer [192.0.2.1] from [fd00::/64]", "http 80/tcp"},
		},
		{
			name: "without a valid source range no source is admitted",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1")
				s.Spec.ExternalIPs, s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.9", "192.0.2.1"}, []string{"office"}
			},
			want: []string{"[10.96.0.1 fd00::1] external [192.0.2.9]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.loadBalancerSourceRanges[0]", Detail: `"office" is not a CIDR`},
				{Field: "spec.loadBalancerSourceRanges", Detail: "no IPv4 range is valid, so the IPv4 addresses of the load balancer are not served"},
			},
		},
		{
			name: "an external IP that is also a load balancer address",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1")
				s.Spec.ExternalIPs, s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.1", "192.0.2.9"}, []string{"10.0.0.0/8"}
			},
			want: []string{"[10.96.0.1 fd00::1] external [192.0.2.9] balancer [192.0.2.1] from [10.0.0.0/8]", "http 80/tcp"},
		},
		{
			name: "load balancer fields of another type",
			change: func(s *corev1.Service) {
				balance(s, "192.0.2.1", "x")
				s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeNodePort, []string{"x"}
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name: "policies",
			change: func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal), "Local"
			},
			want: []string{"[10.96.0.1 fd00::1] internal local external local", "http 80/tcp"},
		},
		{
			name: "policies by default",
			change: func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyCluster), "Cluster"
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name: "external policy of a load balancer",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.ExternalTrafficPolicy = "Local"
			},
			want: []string{"[10.96.0.1 fd00::1] external local", "http 80/tcp"},
		},
		{
			name: "health check node port",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = "Local", 65535
			},
			want: []string{"[10.96.0.1 fd00::1] external local health 65535", "http 80/tcp"},
		},
		{
			name: "health check node port too high",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = "Local", 65536
			},
			want:     []string{"[10.96.0.1 fd00::1] external local", "http 80/tcp"},
			problems: []Problem{{Field: "spec.healthCheckNodePort", Detail: "65536 is not a port number"}},
		},
		{
			name: "health check node port below zero",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = "Local", -1
			},
			want:     []string{"[10.96.0.1 fd00::1] external local", "http 80/tcp"},
			problems: []Problem{{Field: "spec.healthCheckNodePort", Detail: "-1 is not a port number"}},
		},
		{
			name: "health check node port of policy Cluster",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.HealthCheckNodePort = 30000
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name: "health check node port of another type",
			change: func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, "Local"
				s.Spec.HealthCheckNodePort = -1
			},
			want: []string{"[10.96.0.1 fd00::1] external local", "http 80/tcp"},
		},
		{
			name: "external policy of external IPs",
			change: func(s *corev1.Service) {
				s.Spec.Type, s.Spec.ExternalIPs, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeClusterIP, []string{"192.0.2.1"}, "Local"
			},
			want: []string{"[10.96.0.1 fd00::1] external [192.0.2.1] external local", "http 80/tcp"},
		},
		{
			name:   "external policy without external addresses",
			change: func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" },
			want:   []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name: "unknown policies",
			change: func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicy("local")), "Global"
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
			problems: []Problem{
				{Field: "spec.internalTrafficPolicy", Detail: `"local" is not one of Cluster, Local`},
				{Field: "spec.externalTrafficPolicy", Detail: `"Global" is not one of Cluster, Local`},
			},
		},
		{
			name: "node ports",
			change: func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeNodePort
				s.Spec.Ports = []corev1.ServicePort{
					{Name: "a", Port: 1, NodePort: -1}, {Name: "b", Port: 2, NodePort: 65536}, {Name: "c", Port: 3, NodePort: 65535},
					{Name: "d", Port: 4, NodePort: 65535}, {Name: "e", Port: 5, Protocol: "UDP", NodePort: 65535}, {Name: "f", Port: 6}, {Name: "g", Port: 7},
				}
			},
			want: []string{
				"[10.96.0.1 fd00::1]", "a 1/tcp", "b 2/tcp", "c 3/tcp at nodes 65535", "d 4/tcp", "e 5/udp at nodes 65535", "f 6/tcp", "g 7/tcp",
			},
			problems: []Problem{
				{Field: "spec.ports[0].nodePort", Detail: "-1 is not a port number"},
				{Field: "spec.ports[1].nodePort", Detail: "65536 is not a port number"},
				{Field: "spec.ports[3].nodePort", Detail: `65535/tcp is already used by port "c"`},
			},
		},
		{
			name: "node port of a load balancer",
			change: func(s *corev1.Service) {
				balance(s)
				s.Spec.Ports[0].NodePort = 30080
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp at nodes 30080"},
		},
		{
			name:   "node port of another type",
			change: func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 },
			want:   []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name: "fields that are not read",
			change: func(s *corev1.Service) {
				s.Annotations = map[string]string{"service.kubernetes.io/topology-mode": "Auto"}
				s.Spec.Selector, s.Spec.ExternalName = map[string]string{"app": "web"}, "example.org"
				s.Spec.LoadBalancerIP, s.Spec.LoadBalancerClass = "192.0.2.1", new("example.org/lb")
				s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = []corev1.IPFamily{"IPv6"}, new(corev1.IPFamilyPolicySingleStack)
				s.Spec.PublishNotReadyAddresses, s.Spec.AllocateLoadBalancerNodePorts = true, new(false)
				s.Spec.TrafficDistribution = new(corev1.ServiceTrafficDistributionPreferSameZone)
				s.Spec.Ports[0].TargetPort, s.Spec.Ports[0].AppProtocol = intstr.FromInt32(9), new("https")
				s.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: "False"}}
			},
			want: []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name:   "unknown type: as ClusterIP",
			change: func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = "Anycast", 30080 },
			want:   []string{"[10.96.0.1 fd00::1]", "http 80/tcp"},
		},
		{
			name:   "empty spec",
			change: func(s *corev1.Service) { s.Spec = corev1.ServiceSpec{ClusterIP: "10.96.0.1"} },
			want:   []string{"[10.96.0.1]"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := reduceService(apiService(tt.change), render.Instance{})
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
			if diff := cmp.Diff(tt.want, brief(join(render.Node{}, got, nil))); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReduceServiceOfInstance: an instance with a name serves exactly the Services whose label is the name.
func TestReduceServiceOfInstance(t *testing.T) {
	const label = "the label service.kubernetes.io/service-proxy-name "
	blue, err := render.NewInstance("blue")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		labels map[string]string
		why    string
	}{
		{map[string]string{labelServiceProxyName: "blue"}, ""},
		{map[string]string{labelServiceProxyName: "blues"}, label + "assigns it to another proxy"},
		{map[string]string{labelServiceProxyName: ""}, label + "assigns it to another proxy"},
		{nil, label + "is missing"},
	} {
		got := reduceService(apiService(func(s *corev1.Service) { s.Labels = tt.labels }), blue)
		var want []Problem
		if tt.why != "" {
			want = []Problem{{Object: "Service default/web", Field: "metadata.labels", Detail: tt.why, Skipped: true}}
		}
		if diff := cmp.Diff(want, got.problems); diff != "" || got.skipped != (tt.why != "") {
			t.Errorf("labels %v: skipped %v, problems (-want +got):\n%s", tt.labels, got.skipped, diff)
		}
	}
}

// TestResourcesOfInstance: the API server selects the Services of an instance, and sends EndpointSlices whatever their labels are. An
// instance with a name does not ask for ServiceCIDRs.
func TestResourcesOfInstance(t *testing.T) {
	for name, want := range map[string][]string{
		"": {"services !service.kubernetes.io/service-proxy-name spec.clusterIP!=None", "endpointslices !service.kubernetes.io/headless ",
			"nodes  metadata.name=n1", "servicecidrs  "},
		"blue": {"services service.kubernetes.io/service-proxy-name=blue spec.clusterIP!=None", "endpointslices !service.kubernetes.io/headless ",
			"nodes  metadata.name=n1"},
	} {
		i, err := render.NewInstance(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range resources(render.Node{Instance: i, Name: "n1"}) {
			got = append(got, r.name+" "+r.labels+" "+r.fields)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("instance %q (-want +got):\n%s", name, diff)
		}
	}
}

// TestServiceCIDRsOfInstance: an instance with a name knows no service CIDRs, neither those of the settings nor those of ServiceCIDR objects.
func TestServiceCIDRsOfInstance(t *testing.T) {
	blue, err := render.NewInstance("blue")
	if err != nil {
		t.Fatal(err)
	}
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	for _, i := range []render.Instance{{}, blue} {
		c := newCatalog(slog.New(slog.DiscardHandler))
		c.putServiceCIDR(&serviceCIDR{name: "more", ranges: []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")}})
		u, _ := c.update(render.Node{Instance: i, ServiceCIDRs: cidrs})
		if got := len(u.Node.ServiceCIDRs); got != 2 && i.Name() == "" || got != 0 && i.Name() != "" {
			t.Errorf("instance %q has %d service CIDRs", i.Name(), got)
		}
	}
}
