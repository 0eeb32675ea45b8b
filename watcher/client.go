package watcher

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

// dialTimeout is how long a connection to the API server may take to come about, client-go's default.
const dialTimeout = 30 * time.Second

// clients are a REST client for each group that is read, over one HTTP client. client-go's typed clients would bring the
// types of every group there is along with them.
type clients struct {
	dialer *connrotation.Dialer
	closed atomic.Bool
	http   *http.Client
	config *rest.Config
	codecs runtime.NegotiatedSerializer
}

func newClients(given *rest.Config) (*clients, error) {
	c := &clients{config: rest.CopyConfig(given), codecs: serializer.NewCodecFactory(newScheme()).WithoutConversion()}
	c.config.ContentType = runtime.ContentTypeProtobuf
	c.config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	c.config.QPS, c.config.RateLimiter = -1, nil // the reflectors know when to wait
	c.config.Timeout = 0                         // a watch lasts
	dial := c.config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: dialTimeout}).DialContext
	}
	// A dialer of our own gives us connections of our own, so that close can end them.
	c.dialer = connrotation.NewDialer(dial)
	c.config.Dial = c.dial
	var err error
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return nil, fmt.Errorf("API server %s: %w", given.Host, err)
	}
	return c, nil
}

// of returns the client for a group.
func (c *clients) of(version schema.GroupVersion) (*rest.RESTClient, error) {
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

// dial opens a connection. One that comes about while close ends all others is ended as well.
func (c *clients) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, addr)
	if err == nil && c.closed.Load() {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	return conn, err
}

// close ends all connections, and lets no other come about.
func (c *clients) close() {
	c.closed.Store(true)
	c.dialer.CloseAll()
}

// newScheme knows the kinds that are read and no others.
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
