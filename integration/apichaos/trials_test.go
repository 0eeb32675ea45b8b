package apichaos

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"nfproxy/integration/cluster"
	"nfproxy/integration/controlplane"
)

// stays fails the test unless the kernel has the endpoint of the last change, all the time.
func (i *instance) stays(during time.Duration) {
	i.t.Helper()
	for begin := time.Now(); time.Since(begin) < during; time.Sleep(100 * time.Millisecond) {
		if !i.serves() {
			i.t.Fatalf("the previous endpoint has come back; end of the log:\n%s", i.logEnd())
		}
	}
}

// slowList: while all Services are listed again at 1 kB/s, the tables stay and endpoints change as always. A restart keeps the
// tables until the slow list is complete, and then programs what has changed meanwhile.
func slowList(r *route, e *environment) {
	p := newProxy(r.t, r.Cluster)
	kubeconfig := r.Kubeconfig(account(r.Cluster, p.addr))
	r.start(kubeconfig)
	r.awaitFirst()
	var took []time.Duration
	for range *rounds {
		gone := deny(metav1.Status{Code: http.StatusGone, Reason: metav1.StatusReasonExpired})
		p.set(func(w http.ResponseWriter, q *http.Request) bool {
			return path.Base(q.URL.Path) == "services" && !q.URL.Query().Has("sendInitialEvents") && gone(w, q)
		}, slow("services", 1000))
		r.stays(4 * time.Second)
		r.change()
		begin := time.Now()
		r.await()
		took = append(took, time.Since(begin))
		r.stop()
		r.change()
		r.start(kubeconfig)
		r.await()
		p.set(nil, nil)
		r.check(e.undisturbed)
	}
	report(r.t, took)
}

// laggingServer: when nfproxy gets to an API server that lags behind, a removed endpoint does not come back, whether nfproxy
// is restarted meanwhile or not.
func laggingServer(r *route, e *environment) {
	way := newRelay(r.t, net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"), e.api)
	kubeconfig := r.Kubeconfig(account(r.Cluster, way.addr))
	r.start(kubeconfig)
	r.awaitFirst()
	var took []time.Duration
	for range *rounds {
		e.etcd.setSilent(true)
		r.change() // at the API server that knows the latest state
		r.await()
		way.lead(net.JoinHostPort(cluster.NodeAddrs[0].String(), fmt.Sprint(laggingPort)))
		r.stays(6 * time.Second)
		r.stop()
		r.start(kubeconfig)
		r.stays(6 * time.Second)
		if n := way.connections(); n < 2 {
			r.t.Errorf("%d connections to the lagging API server, want one before the restart and one after it", n)
		}
		e.etcd.setSilent(false)
		r.change()
		begin := time.Now()
		r.await()
		took = append(took, time.Since(begin))
		r.check(e.undisturbed)
		way.lead(e.api)
	}
	report(r.t, took)
}

// write replaces a file at once, as a kubelet does.
func (i *instance) write(name string, content []byte) {
	i.t.Helper()
	i.must(os.WriteFile(name+".new", content, 0o600))
	i.must(os.Rename(name+".new", name))
}

// recovers ends the connections at a relay, rotates credentials three seconds later, and returns the time from then to the arrival
// of a change.
func (r *route) recovers(rotate func()) time.Duration {
	r.t.Helper()
	r.relay.reconnect()
	r.change()
	time.Sleep(3 * time.Second)
	if r.serves() {
		r.t.Error("a change has arrived before the credentials were rotated")
	}
	rotate()
	begin := time.Now()
	r.await()
	return time.Since(begin)
}

// rotatedToken: after the token has become invalid, a new one in the token file is used at once.
func rotatedToken(r *route, e *environment) {
	r.relay = newRelay(r.t, net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"), e.api)
	_, err := r.RbacV1().ClusterRoleBindings().Create(r.t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "rotated-token"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "nfproxy"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "kube-system", Name: "rotated"}},
	}, metav1.CreateOptions{})
	r.must(err)
	file := filepath.Join(r.t.TempDir(), "token")
	config := r.ServiceAccountConfig("kube-system", "rotated")
	r.write(file, []byte(config.BearerToken))
	used := rest.CopyConfig(config)
	used.Host, used.BearerToken, used.BearerTokenFile = "https://"+r.relay.addr, "", file
	r.start(r.Kubeconfig(used))
	r.awaitFirst()
	var took []time.Duration
	for range *rounds {
		r.must(r.CoreV1().ServiceAccounts("kube-system").Delete(r.t.Context(), "rotated", metav1.DeleteOptions{}))
		r.awaitDenied(config)
		config = r.ServiceAccountConfig("kube-system", "rotated")
		took = append(took, r.recovers(func() { r.write(file, []byte(config.BearerToken)) }))
		r.check(e.undisturbed)
	}
	report(r.t, took)
}

// awaitDenied waits until the API server denies the credentials. It remembers the tokens that it has accepted for some seconds.
func (i *instance) awaitDenied(config *rest.Config) {
	i.t.Helper()
	clients, err := kubernetes.NewForConfig(config)
	i.must(err)
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if _, err := clients.CoreV1().Services("default").List(i.t.Context(), metav1.ListOptions{Limit: 1}); err != nil {
			return
		}
		if time.Since(begin) > patience {
			i.t.Fatal("the API server accepts the old credentials")
		}
	}
}

// rotatedClientCertificate: after the client certificate has expired, a new one in the file is used at once.
func rotatedClientCertificate(r *route, e *environment) {
	r.relay = newRelay(r.t, net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"), e.api)
	dir := r.t.TempDir()
	certificate, key := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	issue := func() *rest.Config {
		config := r.ConfigUntil(time.Now().Add(15*time.Second), "rotated", "system:masters")
		r.write(key, config.KeyData)
		r.write(certificate, config.CertData)
		return config
	}
	config := issue()
	used := rest.CopyConfig(config)
	used.Host, used.CertData, used.KeyData, used.CertFile, used.KeyFile = "https://"+r.relay.addr, nil, nil, certificate, key
	r.start(r.Kubeconfig(used))
	r.awaitFirst()
	var took []time.Duration
	for range *rounds {
		r.awaitDenied(config)
		took = append(took, r.recovers(func() { config = issue() }))
		r.check(e.undisturbed)
	}
	report(r.t, took)
}

// startWithAuthorityFile starts nfproxy behind a proxy, with the authority of the API server in a file. It returns the proxy and the
// file when nfproxy has programmed the first state.
func startWithAuthorityFile(r *route) (*proxy, string) {
	p := newProxy(r.t, r.Cluster)
	r.relay = newRelay(r.t, net.JoinHostPort(cluster.NodeAddrs[0].String(), "0"), p.addr)
	file := filepath.Join(r.t.TempDir(), "ca.crt")
	config := account(r.Cluster, r.relay.addr)
	r.write(file, config.CAData)
	config.CAData, config.CAFile = nil, file
	r.start(r.Kubeconfig(config))
	r.awaitFirst()
	return p, file
}

// rotatedAuthority: after the API server has got the certificate of another authority, that authority is trusted as soon as it is in
// the file.
func rotatedAuthority(r *route, e *environment) {
	p, file := startWithAuthorityFile(r)
	var took []time.Duration
	for range *rounds {
		authority, server, err := controlplane.NewServer(time.Time{}, cluster.NodeAddrs...)
		r.must(err)
		p.replaceCertificate(server)
		took = append(took, r.recovers(func() { r.write(file, authority) }))
		r.check(e.undisturbed)
	}
	report(r.t, took)
}

// certificateNotYetValid: while the clock is behind, so that the certificate of the API server is not valid yet, the tables stay.
// As soon as it is valid, changes arrive.
func certificateNotYetValid(r *route, e *environment) {
	p, file := startWithAuthorityFile(r)
	var took []time.Duration
	for range *rounds {
		valid := time.Now().Add(10 * time.Second).Truncate(time.Second) // certificates have no fractions of a second
		authority, server, err := controlplane.NewServer(valid, cluster.NodeAddrs...)
		r.must(err)
		p.replaceCertificate(server)
		r.write(file, authority)
		took = append(took, r.recovers(func() { time.Sleep(time.Until(valid)) }))
		r.check(e.undisturbed)
	}
	report(r.t, took)
}
