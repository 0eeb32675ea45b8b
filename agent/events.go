package agent

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"nfproxy/render"

	"nfproxy/agent/health"
)

// Reasons of Events. The first four are also kube-proxy's.
const (
	reasonStarting           = "Starting"
	reasonServiceHealthcheck = "FailedToStartServiceHealthcheck"
	reasonProxierHealthcheck = "FailedToStartProxierHealthcheck"
	reasonMetricServer       = "FailedToStartMetricServer"
	reasonConflict           = "FrontendConflict"
	reasonRefused            = "RefusedByKernel"
	reasonAddressRefused     = "AddressRefused"
	reasonTooLarge           = "ServiceTooLarge"
	reasonLocalhost          = "FailedToStartLocalhostNodePort"
)

// events sends Events about Services and this node to the API server. Sending does not block, and Events that cannot be sent
// are lost. The methods of a nil events do nothing: Services that come from a directory have no API server.
type events struct {
	node        string
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

// newEvents returns events for the API server of config. The caller closes them.
func newEvents(config *rest.Config, node string, log *slog.Logger) (*events, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Event{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	sink, err := newEventSink(config, scheme)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	e := &events{node: node, broadcaster: record.NewBroadcaster()}
	e.recorder = e.broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "nfproxy", Host: node}).
		WithLogger(klog.New(logr.FromSlogHandler(log.Handler()).GetSink()))
	e.broadcaster.StartRecordingToSink(sink)
	return e, nil
}

// Close discards Events that have not been sent.
func (e *events) Close() error {
	if e != nil {
		e.broadcaster.Shutdown()
	}
	return nil
}

// serverFailed reports that an HTTP server of this node is not reachable.
func (e *events) serverFailed(name string, err error) {
	if e == nil {
		return
	}
	reason := reasonMetricServer
	if name == health.HealthzServer {
		reason = reasonProxierHealthcheck
	}
	e.recorder.Event(e.nodeReference(), corev1.EventTypeWarning, reason, err.Error())
}

// started reports that this version of nfproxy starts on this node.
func (e *events) started(version string) {
	if e != nil {
		e.recorder.Event(e.nodeReference(), corev1.EventTypeNormal, reasonStarting, "nfproxy "+version)
	}
}

// warn sends a warning about a Service.
func (e *events) warn(s render.ServiceName, reason, message string) {
	if e == nil {
		return
	}
	e.recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name,
		UID: types.UID(s.String())}, // as kube-proxy does: the real UID is not kept
		corev1.EventTypeWarning, reason, message)
}

// healthCheckFailed reports that a Service's health check node port cannot be served on this node.
func (e *events) healthCheckFailed(s render.ServiceName, message string) {
	e.warn(s, reasonServiceHealthcheck, message)
}

// localhostFailed reports that a Service's node port cannot be served at a loopback address of this node.
func (e *events) localhostFailed(s render.ServiceName, message string) {
	e.warn(s, reasonLocalhost, message)
}

// nodeReference refers to this node. Its UID is the node's name, as in the Events of kubelet and kube-proxy.
func (e *events) nodeReference() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.node, UID: types.UID(e.node)}
}

// eventSink writes Events to the API server. client-go's own sink would link the types of every API group into the binary.
type eventSink struct {
	client *rest.RESTClient
}

func newEventSink(config *rest.Config, scheme *runtime.Scheme) (eventSink, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	client, err := rest.RESTClientFor(config)
	return eventSink{client}, err
}

// Create, Update and Patch implement record.EventSink.
func (s eventSink) Create(e *corev1.Event) (*corev1.Event, error) {
	return written(s.client.Post().Namespace(e.Namespace).Resource("events").Body(e))
}

func (s eventSink) Update(e *corev1.Event) (*corev1.Event, error) {
	return written(s.client.Put().Namespace(e.Namespace).Resource("events").Name(e.Name).Body(e))
}

func (s eventSink) Patch(e *corev1.Event, data []byte) (*corev1.Event, error) {
	return written(s.client.Patch(types.StrategicMergePatchType).Namespace(e.Namespace).Resource("events").Name(e.Name).Body(data))
}

// written sends a request; the recorder has its own time to give up.
func written(r *rest.Request) (*corev1.Event, error) {
	e := &corev1.Event{}
	return e, r.Do(context.Background()).Into(e)
}
