package watcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/connrotation"
)

// restClients makes a REST client for each API group that is read, all over one HTTP client. client-go's typed clients would
// link the types of all API groups into the program.
type restClients struct {
	dialer *connrotation.Dialer
	closed atomic.Bool
	http   *http.Client
	config *rest.Config
	codecs runtime.NegotiatedSerializer
}

func newRESTClients(given *rest.Config, p pace) (*restClients, error) {
	c := &restClients{config: rest.CopyConfig(given), codecs: serializer.NewCodecFactory(newScheme()).WithoutConversion()}
	c.config.ContentType = runtime.ContentTypeProtobuf
	c.config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.config.QPS, c.config.RateLimiter = -1, nil // the reflectors have a backoff
	c.config.Timeout = 0                         // it would end watches; store limits each request
	dial := c.config.Dial
	if dial == nil {
		dial = p.dialer().DialContext
	}
	// A separate dialer keeps the HTTP client from sharing connections, so that close can end all of them.
	c.dialer = connrotation.NewDialer(dial)
	c.config.Dial = c.dial
	transport, err := newRotatedTransport(c.config, func() (http.RoundTripper, error) { return newTransport(c.config, p) })
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", given.Host, err)
	}
	c.http = &http.Client{Transport: watchTransport{transport}}
	return c, nil
}

// newTransport returns a RoundTripper with the credentials of config and the timeouts of p. It reads the files of certificates
// once: client-go would read them again at times, in goroutines that do not end.
func newTransport(config *rest.Config, p pace) (http.RoundTripper, error) {
	config = rest.CopyConfig(config)
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, err
	}
	err := errors.New("client-go did not wrap the transport")
	config.WrapTransport = transport.Wrappers(func(rt http.RoundTripper) http.RoundTripper {
		err = p.limit(rt)
		return rt
	}, config.WrapTransport)
	rt, made := rest.TransportFor(config)
	if made != nil {
		return nil, made
	}
	return rt, err
}

// forVersion returns the client for the resources of a group and version.
func (c *restClients) forVersion(version schema.GroupVersion) (*rest.RESTClient, error) {
	config := rest.CopyConfig(c.config)
	config.GroupVersion = &version
	config.APIPath = "/apis"
	if version.Group == corev1.GroupName {
		config.APIPath = "/api"
	}
	config.NegotiatedSerializer = c.codecs
	client, err := rest.RESTClientForConfigAndClient(config, c.http)
	if err != nil {
		return nil, fmt.Errorf("API server %s: %w", c.config.Host, err)
	}
	return client, nil
}

// dial opens a connection. If close is called meanwhile, the new connection is closed too.
func (c *restClients) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, addr)
	if err == nil && c.closed.Load() {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return conn, err
}

// close ends all connections and prevents new ones.
func (c *restClients) close() {
	c.closed.Store(true)
	c.dialer.CloseAll()
}

// newScheme returns a scheme with the kinds that are read and no others.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.ServiceList{}, &corev1.Node{}, &corev1.NodeList{})
	s.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	s.AddKnownTypes(networkingv1.SchemeGroupVersion, &networkingv1.ServiceCIDR{}, &networkingv1.ServiceCIDRList{})
	for _, version := range []schema.GroupVersion{
		corev1.SchemeGroupVersion, discoveryv1.SchemeGroupVersion, networkingv1.SchemeGroupVersion,
	} {
		metav1.AddToGroupVersion(s, version)
	}
	return s
}
