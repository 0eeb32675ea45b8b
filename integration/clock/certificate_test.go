package clock

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"nfproxy/integration/apistub"
	"nfproxy/integration/cluster"
)

// TestClockOutsideCertificate: the clock jumps out of the validity period of the API server's certificate. A change arrives over
// the open connections. When they have ended, new ones fail: the rules stay, /livez and /healthz succeed, the attempts and the lines
// in the log are few, and a rotated token is used when the clock is right again, with the change that was made meanwhile.
func TestClockOutsideCertificate(t *testing.T) {
	clock := newClock(t)
	for name, by := range map[string]time.Duration{"expired": 25 * time.Hour, "not yet valid": -24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			dir := t.TempDir()
			token, kubeconfig := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
			write := func(file, text string) {
				t.Helper()
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := apistub.New(t, "first")
			write(token, "first")
			write(kubeconfig, s.Kubeconfig(token))
			put := func(name, ip string) {
				t.Helper()
				service, slice := service(name, ip, corev1.ServiceAffinityNone)
				s.Put(t, "endpointslices", slice)
				s.Put(t, "services", service)
			}
			s.Put(t, "nodes", nodeObject())
			put("before", "10.96.0.1")
			n.start("--kubeconfig", kubeconfig, "--service-cidr", "10.96.0.0/16")
			n.awaitServed("10.96.0.1")
			cluster.EventuallyTrue(t, "the Event of the start is written", func() (bool, string) {
				return s.Counts().Events > 0, n.daemon.Log.String()
			})

			clock.jump(by)
			put("open-connection", "10.96.0.2")
			n.awaitServed("10.96.0.2")
			logged := len(n.daemon.Log.String())
			connections := s.Counts().Connections
			s.Rotate("second")
			write(token, "second")
			s.CloseClientConnections()
			put("meanwhile", "10.96.0.3")
			n.daemon.AwaitLog("the API server does not answer")
			n.awaitRepair()
			time.Sleep(time.Minute)
			n.healthy()
			n.reached("10.96.0.1")
			n.reached("10.96.0.2")
			if others := n.logged(logged, repaired); len(others) != 1 {
				t.Errorf("logged: %s", others)
			}
			// Four resources are requested, and the Nodes are counted.
			now := s.Counts()
			if t.Logf("%d connections in a minute", now.Connections-connections); now.Connections-connections > 100 || now.Served > 0 {
				t.Errorf("too many connections, or requests: %+v", now)
			}

			clock.jump(-by)
			n.awaitServed("10.96.0.3")
			n.daemon.AwaitLog("the API server answers again")
			if s.Counts().Served == 0 {
				t.Error("the new token was not used")
			}
			n.healthy()
			cluster.EventuallyTrue(t, "nothing is pending", func() (bool, string) {
				pending := n.metric("kubeproxy_sync_proxy_rules_service_changes_pending")
				return pending == 0, fmt.Sprint(pending)
			})
			n.daemon.Stop()
		})
	}
}
