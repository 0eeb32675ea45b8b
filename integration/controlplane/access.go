//go:build linux

package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	authentication "k8s.io/api/authentication/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// AdminConfig returns the configuration of a client that may do everything.
func (c *ControlPlane) AdminConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// Config returns the configuration of a client that authenticates as a user
// with a client certificate. The client connects from the control plane's
// namespace, over its loopback link, whatever the namespace of the caller. It
// is not throttled.
func (c *ControlPlane) Config(user string, groups ...string) *rest.Config {
	c.t.Helper()
	return c.ConfigUntil(time.Time{}, user, groups...)
}

// ConfigUntil is Config with a certificate that is valid until a time.
func (c *ControlPlane) ConfigUntil(until time.Time, user string, groups ...string) *rest.Config {
	c.t.Helper()
	client, err := c.authority.client(until, user, groups...)
	if err != nil {
		c.t.Fatal(err)
	}
	config := c.anonymous()
	config.CertData, config.KeyData = client.certificate, client.key
	return config
}

// ServiceAccountConfig is Config for a service account, with a token that is
// valid for an hour. It creates the service account if it does not exist.
func (c *ControlPlane) ServiceAccountConfig(namespace, name string) *rest.Config {
	c.t.Helper()
	token, err := c.token(c.t.Context(), namespace, name)
	if err != nil {
		c.t.Fatalf("get token of service account %s/%s: %v", namespace, name, err)
	}
	config := c.anonymous()
	config.BearerToken = token
	return config
}

// token returns a new token of a service account.
func (c *ControlPlane) token(ctx context.Context, namespace, name string) (string, error) {
	clients, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return "", err
	}
	accounts := clients.CoreV1().ServiceAccounts(namespace)
	account := &core.ServiceAccount{ObjectMeta: meta.ObjectMeta{Namespace: namespace, Name: name}}
	_, err = accounts.Create(ctx, account, meta.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return "", err
	}
	request, err := accounts.CreateToken(ctx, name, &authentication.TokenRequest{}, meta.CreateOptions{})
	if err != nil {
		return "", err
	}
	return request.Status.Token, nil
}

// anonymous returns the configuration of a client without credentials.
func (c *ControlPlane) anonymous() *rest.Config {
	return &rest.Config{
		Host:            URL(loopback()),
		TLSClientConfig: rest.TLSClientConfig{CAData: certificatePEM(c.authority.certificate)},
		Dial:            c.dial,
		Proxy:           func(*http.Request) (*url.URL, error) { return nil, nil },
		QPS:             -1,
	}
}

// dial opens a connection from the control plane's namespace.
func (c *ControlPlane) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return c.ns.Dial(ctx, network, "", addr)
}

// Kubeconfig writes config to a kubeconfig file, for a process in the control
// plane's namespace, and returns its path. A process in another namespace
// reaches the API server at an address given to Start: set config.Host to the
// URL of that address first.
func (c *ControlPlane) Kubeconfig(config *rest.Config) string {
	c.t.Helper()
	const name = "test"
	file := api.NewConfig()
	file.Clusters[name] = &api.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData, CertificateAuthority: config.CAFile}
	file.AuthInfos[name] = &api.AuthInfo{
		ClientCertificateData: config.CertData,
		ClientCertificate:     config.CertFile,
		ClientKeyData:         config.KeyData,
		ClientKey:             config.KeyFile,
		Token:                 config.BearerToken,
		TokenFile:             config.BearerTokenFile,
	}
	file.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	file.CurrentContext = name
	path, err := c.writeKubeconfig(file)
	if err != nil {
		c.t.Fatalf("write kubeconfig: %v", err)
	}
	return path
}

// writeKubeconfig writes a new file and returns its path.
func (c *ControlPlane) writeKubeconfig(content *api.Config) (string, error) {
	file, err := os.CreateTemp(c.dir, "*.kubeconfig")
	if err != nil {
		return "", err
	}
	if err := file.Close(); err != nil {
		return "", err
	}
	if err := clientcmd.WriteToFile(*content, file.Name()); err != nil {
		return "", fmt.Errorf("%s: %w", file.Name(), err)
	}
	return file.Name(), nil
}
