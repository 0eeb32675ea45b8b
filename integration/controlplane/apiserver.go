//go:build linux

package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"k8s.io/client-go/rest"
)

// Names of the API server's files.
const (
	authorityFile  = "authority.crt"
	serverFile     = "apiserver.crt"
	serverKeyFile  = "apiserver.key"
	accountKeyFile = "serviceaccounts.key"

	// The certificate by which the API server authenticates to kubelets.
	kubeletClientFile    = "kubelet-client.crt"
	kubeletClientKeyFile = "kubelet-client.key"
)

// StartAPIServer starts the API server after StopAPIServer, and returns when it
// is ready.
func (c *ControlPlane) StartAPIServer() {
	c.t.Helper()
	c.apiserver = c.startAPIServer(c.admin.Host)
}

// AddAPIServer starts another API server on the same objects, at the same
// addresses and another port, and returns when it is ready. etcd is the URL by
// which it reaches etcd, flags are additional ones.
func (c *ControlPlane) AddAPIServer(port int, etcd string, flags ...string) {
	c.t.Helper()
	flags = append([]string{fmt.Sprintf("--secure-port=%d", port), "--etcd-servers=" + etcd, "--endpoint-reconciler-type=none"}, flags...)
	c.startAPIServer("https://"+netip.AddrPortFrom(loopback(), uint16(port)).String(), flags...)
}

// startAPIServer starts an API server whose URL is host. The flags override
// others.
func (c *ControlPlane) startAPIServer(host string, flags ...string) *process {
	c.t.Helper()
	client, err := rest.HTTPClientFor(c.admin)
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	p := startProcess(c.t, c.ns, c.dir, "kube-apiserver", append(c.apiserverFlags(), flags...)...)
	p.await(c.t, func(ctx context.Context) error {
		if err := get(ctx, client, host+"/readyz"); err != nil {
			return err
		}
		return get(ctx, client, host+"/api/v1/namespaces/default/services/kubernetes") // the API server creates it last
	})
	return p
}

// ServerCertificate returns the certificate of the API server, for a proxy in
// front of it.
func (c *ControlPlane) ServerCertificate() tls.Certificate {
	c.t.Helper()
	certificate, err := tls.LoadX509KeyPair(c.path(serverFile), c.path(serverKeyFile))
	if err != nil {
		c.t.Fatal(err)
	}
	return certificate
}

// StopAPIServer stops the API server; its objects stay in etcd. Stopping it
// twice is not an error.
func (c *ControlPlane) StopAPIServer() {
	c.t.Helper()
	c.apiserver.stop(c.t)
}

// RestartAPIServer stops the API server, starts it again, and returns when it
// is ready.
func (c *ControlPlane) RestartAPIServer() {
	c.t.Helper()
	c.StopAPIServer()
	c.StartAPIServer()
}

// apiserverFlags returns flags that disable what is slow or serves only large clusters.
func (c *ControlPlane) apiserverFlags() []string {
	bind, advertise, endpoints := loopback(), loopback(), "none"
	if len(c.addrs) > 0 {
		bind, advertise, endpoints = netip.IPv4Unspecified(), c.addrs[0], "lease"
	}
	flags := []string{
		"--etcd-servers=" + EtcdURL,
		fmt.Sprintf("--secure-port=%d", Port),
		"--bind-address=" + bind.String(), // 0.0.0.0 stands for both families
		"--advertise-address=" + advertise.String(),
		"--endpoint-reconciler-type=" + endpoints,
		"--service-cluster-ip-range=" + ServiceCIDR4 + "," + ServiceCIDR6,
		"--tls-cert-file=" + c.path(serverFile),
		"--tls-private-key-file=" + c.path(serverKeyFile),
		"--client-ca-file=" + c.path(authorityFile),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path(accountKeyFile),
		"--service-account-signing-key-file=" + c.path(accountKeyFile),
		"--allow-privileged=true", // as kubeadm sets it
		"--enable-priority-and-fairness=false",
		"--profiling=false",
	}
	if c.kubelets {
		flags = append(flags,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--kubelet-client-certificate="+c.path(kubeletClientFile),
			"--kubelet-client-key="+c.path(kubeletClientKeyFile),
			"--kubelet-preferred-address-types=InternalIP",
		)
	} else {
		flags = append(flags, "--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount")
	}
	return append(flags, c.flags...)
}

// writeKubeletClient writes the certificate by which the API server authenticates to kubelets.
func (c *ControlPlane) writeKubeletClient() {
	c.t.Helper()
	client, err := c.authority.client(time.Time{}, "kube-apiserver-kubelet-client", "system:masters")
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(kubeletClientFile, client.certificate)
	c.write(kubeletClientKeyFile, client.key)
}

// writeServerFiles writes the API server's certificate and the key that signs
// the tokens of service accounts.
func (c *ControlPlane) writeServerFiles() {
	c.t.Helper()
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	addrs := []netip.Addr{loopback(), netip.IPv6Loopback()}
	for _, cidr := range []string{ServiceCIDR4, ServiceCIDR6} {
		addrs = append(addrs, netip.MustParsePrefix(cidr).Addr().Next())
	}
	server, err := c.authority.server(time.Time{}, names, append(addrs, c.addrs...))
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(authorityFile, certificatePEM(c.authority.certificate))
	c.write(serverFile, server.certificate)
	c.write(serverKeyFile, server.key)
	accounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatalf("make service account key: %v", err)
	}
	content, err := keyPEM(accounts)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(accountKeyFile, content)
}

// get returns an error unless the response to a GET request has status 200.
func get(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}
