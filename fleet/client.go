package fleet

import (
	"context"
	"fmt"
	"net/url"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Client is a connection to an API server. client-go's typed clients would link the types of all API groups into the program, which
// is the daemon as well.
type Client struct {
	config     *rest.Config
	core, apps *rest.RESTClient
}

// listTimeout limits a request for a list.
const listTimeout = 30 * time.Second

// NewClient returns a client. version is nfproxy's, for the user agent.
func NewClient(config *rest.Config, version string) (*Client, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "kubectl-nfproxy/" + version
	c := &Client{config: config}
	codecs := serializer.NewCodecFactory(newScheme()).WithoutConversion()
	for _, v := range []struct {
		version schema.GroupVersion
		path    string
		to      **rest.RESTClient
	}{{corev1.SchemeGroupVersion, "/api", &c.core}, {appsv1.SchemeGroupVersion, "/apis", &c.apps}} {
		of := rest.CopyConfig(config)
		of.GroupVersion, of.APIPath, of.NegotiatedSerializer = &v.version, v.path, codecs
		of.Timeout = listTimeout
		of.ContentType = runtime.ContentTypeProtobuf
		of.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		client, err := rest.RESTClientFor(of)
		if err != nil {
			return nil, fmt.Errorf("API server %s: %w", config.Host, err)
		}
		*v.to = client
	}
	return c, nil
}

// newScheme returns a scheme with the kinds that are read and no others.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Pod{}, &corev1.PodList{}, &corev1.Node{}, &corev1.NodeList{})
	s.AddKnownTypes(appsv1.SchemeGroupVersion, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{})
	for _, version := range []schema.GroupVersion{corev1.SchemeGroupVersion, appsv1.SchemeGroupVersion} {
		metav1.AddToGroupVersion(s, version)
	}
	return s
}

// list fills in a list of a resource, of all namespaces if namespace is empty, with the labels that a selector asks for.
func list(ctx context.Context, c *rest.RESTClient, resource, namespace, selector string, into runtime.Object) error {
	request := c.Get().Resource(resource).NamespaceIfScoped(namespace, namespace != "")
	if selector != "" {
		request = request.Param("labelSelector", selector)
	}
	return inWords("list", resource, namespace, request.Do(ctx).Into(into))
}

// execURL returns the URL at which a command runs in a container.
func (c *Client) execURL(t Target, args []string) *url.URL {
	request := c.core.Post().Resource("pods").Namespace(t.Namespace).Name(t.Pod).SubResource("exec").
		Param("container", t.Container).Param("stdout", "true").Param("stderr", "true")
	for _, word := range append([]string{t.Program}, args...) {
		request = request.Param("command", word)
	}
	return request.URL()
}
