package deploy

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/integration/cluster"
	"nfproxy/sandbox"
)

// TestRights: which users may program nftables in a container. Kubernetes gives capabilities to root alone, and those of a file
// are lost where allowPrivilegeEscalation is false. The container therefore runs as root with CAP_NET_ADMIN and no other
// capability: docs/design/0008-root.md.
func TestRights(t *testing.T) {
	netAdmin := []int{unix.CAP_NET_ADMIN}
	for _, r := range []struct {
		name string
		container
		file, may bool // file: the file of the binary has the capability; may: nftables can be programmed
	}{
		{"root", container{Capabilities: netAdmin, NoNewPrivs: true}, false, true},
		{"root without capabilities", container{NoNewPrivs: true}, false, false},
		{"user", container{UID: unprivilegedUID, Capabilities: netAdmin, NoNewPrivs: true}, false, false},
		{"user with ambient", container{UID: unprivilegedUID, Capabilities: netAdmin, NoNewPrivs: true, Ambient: true}, false, true},
		{"user and file", container{UID: unprivilegedUID, Capabilities: netAdmin}, true, true},
		{"user and file, no new privileges", container{UID: unprivilegedUID, Capabilities: netAdmin, NoNewPrivs: true}, true, false},
		{"user and file, no new privileges, capabilities kept", container{UID: unprivilegedUID, Capabilities: netAdmin, NoNewPrivs: true, KeepCapabilities: true}, true, true},
	} {
		t.Run(r.name, func(t *testing.T) {
			if !userExists(t, r.UID) {
				t.Logf("user %d is not mapped here: run the tests as root to test this case", r.UID)
				return
			}
			c := newContainer(t, "/nfproxy")
			c.UID, c.Capabilities, c.NoNewPrivs, c.Ambient, c.KeepCapabilities = r.UID, r.Capabilities, r.NoNewPrivs, r.Ambient, r.KeepCapabilities
			c.Seccomp = r.NoNewPrivs
			c.Args = []string{"/nfproxy", "cleanup"}
			if r.file {
				c.setFileCapability(t, "/nfproxy", unix.CAP_NET_ADMIN)
			}
			p := c.start(t)
			err := <-p.Done
			p.Done <- err
			const refused = "nfproxy: nftables can be read and changed only with CAP_NET_ADMIN: run as root, or grant that capability\n"
			if (err == nil) != r.may || (p.Log.String() == refused) == r.may {
				t.Errorf("nfproxy cleanup: %v, may program nftables: %v; it prints %s", err, r.may, p.Log)
			}
		})
	}
}

// setFileCapability gives a file a permitted and effective capability (struct vfs_cap_data, version 2, little endian).
func (c *container) setFileCapability(t *testing.T, path string, capability int) {
	t.Helper()
	data := make([]byte, 20)
	data[0], data[3] = 1, 2 // effective, version
	data[4+capability/8] = 1 << (capability % 8)
	if err := unix.Setxattr(filepath.Join(c.Root, path), "security.capability", data, 0); err != nil {
		t.Fatal(err)
	}
}

// TestStandalone: nfproxy works with the user and the privileges of the systemd unit. Sysctls that it cannot set are
// warnings.
func TestStandalone(t *testing.T) {
	c := newDeployment(t)
	b := c.AddBackends("web", 2)
	made := newContainer(t, "/usr/local/bin/nfproxy")
	made.UID, made.Capabilities, made.Ambient, made.NoNewPrivs, made.Seccomp = unprivilegedUID, []int{unix.CAP_NET_ADMIN}, true, true, true
	if !userExists(t, unprivilegedUID) {
		made.UID = 0
	}
	made.ReadOnlyRoot = true
	kubeconfig, err := os.ReadFile(c.Kubeconfig(c.ServiceAccountConfig("kube-system", "nfproxy")))
	if err != nil {
		t.Fatal(err)
	}
	made.mount(t, "/run/credentials/nfproxy.service", map[string]string{"kubeconfig": string(kubeconfig)})
	made.Args = strings.Fields(unitSetting(t, "ExecStart"))
	made.Env = []string{"NFPROXY_KUBECONFIG=/run/credentials/nfproxy.service/kubeconfig", "NFPROXY_HOSTNAME_OVERRIDE=" + cluster.NodeName,
		"NFPROXY_CLUSTER_CIDR=10.244.0.0/16,fd00:10:244::/48", "NFPROXY_CONNTRACK_TCP_TIMEOUT_ESTABLISHED=12345s",
		"NFPROXY_NODEPORT_ADDRESSES=primary,localhost"}
	agent := made.start(t)
	c.checkWorks(b)
	for _, file := range []string{"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established", "/proc/self/oom_score_adj"} {
		agent.AwaitLog(`msg="could not set a number of the kernel; it stays as it is" file=` + file)
	}
	c.checkLocalhost("web")
	agent.Stop()
}

// unitSetting returns the value of a setting in deploy/nfproxy.service.
func unitSetting(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("deploy/nfproxy.service")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+name+"=")
	if !ok {
		t.Fatalf("deploy/nfproxy.service has no %s", name)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// checkWorks fails the test unless nfproxy does everything that needs privileges: it programs rules, deletes conntrack
// entries, listens at a health check node port and serves metrics.
func (c *deployment) checkWorks(b *cluster.Backends) {
	c.T.Helper()
	b.Serve(b.Addrs...)
	b.AwaitEndpoints(b.Addrs...)
	client := c.AddPod("default", "client", nil, "10.244.1.99")
	answer, err := cluster.ReadGreeting(c.T.Context(), client.Namespace, b.Frontend)
	if err != nil || !strings.HasPrefix(answer, "10.244.7.") {
		c.T.Fatalf("the Service answers %q, %v", answer, err)
	}
	c.checkStaleFlowDeletion(b, client.Namespace)
	local, err := c.CoreV1().Services("default").Create(c.T.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "local"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal,
			Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	cluster.EventuallyTrue(c.T, "the health check node port answers", func() (bool, string) {
		status, body := cluster.FetchAt(cluster.NodeAddrs[0].String(), int(local.Spec.HealthCheckNodePort), "/")
		return status == 503 && strings.Contains(body, `"localEndpoints"`), fmt.Sprint(status, body)
	})
}

// checkLocalhost makes a Service a NodePort and fails the test unless a Pod of it greets at 127.0.0.1.
func (c *deployment) checkLocalhost(name string) {
	c.T.Helper()
	s, err := c.CoreV1().Services("default").Get(c.T.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	s.Spec.Type = corev1.ServiceTypeNodePort
	if s, err = c.CoreV1().Services("default").Update(c.T.Context(), s, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
	cluster.EventuallyTrue(c.T, "a Pod greets at 127.0.0.1", func() (bool, string) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Spec.Ports[0].NodePort))
		if err != nil {
			return false, err.Error()
		}
		defer conn.Close()
		text, err := io.ReadAll(conn)
		return err == nil && strings.HasPrefix(string(text), "10.244.7."), fmt.Sprintf("%q, %v", text, err)
	})
}

// checkStaleFlowDeletion opens a UDP flow to an endpoint, removes the endpoint and waits until the flow is deleted.
func (c *deployment) checkStaleFlowDeletion(b *cluster.Backends, from *sandbox.Namespace) {
	c.T.Helper()
	s, err := c.CoreV1().Services("default").Get(c.T.Context(), "web", metav1.GetOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53})
	s.Spec.Ports[0].Name = "http"
	if _, err := c.CoreV1().Services("default").Update(c.T.Context(), s, metav1.UpdateOptions{}); err != nil {
		c.T.Fatal(err)
	}
	http, dns, tcp, udp := "http", "dns", corev1.ProtocolTCP, corev1.ProtocolUDP
	port, dnsPort := int32(8080), int32(5353)
	b.Slice.Ports = []discoveryv1.EndpointPort{{Name: &http, Port: &port, Protocol: &tcp}, {Name: &dns, Port: &dnsPort, Protocol: &udp}}
	b.Serve(b.Addrs[0])
	cluster.EventuallyTrue(c.T, "the UDP port is programmed", c.DumpContains(b.Addrs[0]+":5353"))
	conn, err := from.Dial(c.T.Context(), "udp", "", net.JoinHostPort(s.Spec.ClusterIP, "53"))
	if err != nil {
		c.T.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("?")); err != nil {
		c.T.Fatal(err)
	}
	b.Serve(b.Addrs[1])
	cluster.AwaitAnswer(c.T, 10249, "/metrics", 200, `kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 1`+"\n")
}
