package agent

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"nfproxy/agent/health"
	"nfproxy/ratelimit"
	"nfproxy/render"
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
	reasonAnnotation         = "AnnotationIgnored"
	reasonLocalhost          = "FailedToStartLocalhostNodePort"
)

// events sends Events about Services and this node to the API server. Sending does not block, and Events that cannot be sent
// are lost. Of the Events about Services few nodes send the same (eventQuota). The methods of a nil events do nothing: Services
// that come from a directory have no API server.
type events struct {
	node        string
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	log         *slog.Logger
	nodes       nodeCounter
	stop        context.CancelFunc
	stopped     chan struct{}

	mu      sync.Mutex
	quota   *eventQuota
	counted bool // the quota has the number of nodes
	// waiting holds Events until the nodes are counted, a few of each subject.
	waiting map[eventSubject][]serviceEvent
}

// serviceEvent is a warning about a Service.
type serviceEvent struct {
	service         render.ServiceName
	reason, message string
	again           bool // it repeats an earlier one
}

func (e serviceEvent) subject() eventSubject { return eventSubject{e.service, e.reason} }

// maxWaiting is the number of Services and reasons whose Events wait until the nodes are counted, with eventBurst Events of each. More
// are lost.
const maxWaiting = 1000

// attemptLines is how many failed attempts to write an Event are logged at once. While the API server is unavailable, each Event is
// tried every ten seconds for two minutes, one Event after the other.
const attemptLines = 1

// newEvents returns events for the API server of config. The caller closes them.
func newEvents(config *rest.Config, node render.Node, log *slog.Logger) (*events, error) {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Event{})
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	client, err := newEventClient(config, scheme)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	limited := logr.FromSlogHandler(ratelimit.NewHandler(log.Handler(), attemptLines))
	broadcaster := record.NewBroadcaster(record.WithContext(klog.NewContext(context.Background(), limited)))
	e := &events{node: node.Name, broadcaster: broadcaster, log: log, nodes: nodeCounter{client},
		stop: stop, stopped: make(chan struct{}), quota: newEventQuota(rand.Float64), waiting: make(map[eventSubject][]serviceEvent)}
	e.recorder = e.broadcaster.NewRecorder(scheme, corev1.EventSource{Component: "nfproxy" + node.Instance.Suffix(), Host: node.Name}).
		WithLogger(klog.New(logr.FromSlogHandler(log.Handler()).GetSink()))
	e.broadcaster.StartRecordingToSink(eventSink{client})
	go func() {
		defer close(e.stopped)
		e.countNodes(ctx)
	}()
	return e, nil
}

// countNodes counts the nodes for the quota again and again, until ctx ends.
func (e *events) countNodes(ctx context.Context) {
	for {
		nodes, next := e.nodes.count(ctx, e.log)
		if nodes > 0 {
			e.setNodes(nodes)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// setNodes sets the number of nodes and sends the Events that waited for it.
func (e *events) setNodes(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quota.setNodes(n)
	e.counted = true
	for _, all := range e.waiting {
		for _, event := range all {
			e.send(event)
		}
	}
	e.waiting = nil
}

// Close discards Events that have not been sent.
func (e *events) Close() error {
	if e != nil {
		e.stop()
		<-e.stopped
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
	e.take(serviceEvent{service: s, reason: reason, message: message})
}

// take sends an Event, unless the nodes are not counted yet: then it waits.
func (e *events) take(event serviceEvent) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.counted {
		e.send(event)
		return
	}
	subject := event.subject()
	switch waiting := e.waiting[subject]; {
	case len(waiting) == 0 && len(e.waiting) == maxWaiting, len(waiting) == eventBurst, len(waiting) > 0 && event.again:
	default:
		e.waiting[subject] = append(waiting, event)
	}
}

// send sends an Event if the quota admits it. The caller holds the lock.
func (e *events) send(event serviceEvent) {
	if e.quota.admits(event, time.Now()) {
		e.recorder.Event(serviceReference(event.service), corev1.EventTypeWarning, event.reason, event.message)
	}
}

// healthCheckFailed reports that a Service's health check node port cannot be served on this node.
func (e *events) healthCheckFailed(s render.ServiceName, message string, again bool) {
	e.take(serviceEvent{s, reasonServiceHealthcheck, message, again})
}

// localhostFailed reports that a Service's node port cannot be served at a loopback address of this node.
func (e *events) localhostFailed(s render.ServiceName, message string, again bool) {
	e.take(serviceEvent{s, reasonLocalhost, message, again})
}

// serviceReference refers to a Service. Its UID is its name, as in the Events of kube-proxy: the real UID is not kept.
func serviceReference(s render.ServiceName) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: types.UID(s.String())}
}

// nodeReference refers to this node. Its UID is the node's name, as in the Events of kubelet and kube-proxy.
func (e *events) nodeReference() *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: e.node, UID: types.UID(e.node)}
}

// eventSink writes Events to the API server. client-go's own sink would link the types of every API group into the binary.
type eventSink struct {
	client *rest.RESTClient
}

// newEventClient returns a client for Events and Nodes.
func newEventClient(config *rest.Config, scheme *runtime.Scheme) (*rest.RESTClient, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/api", &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType = runtime.ContentTypeProtobuf
	return rest.RESTClientFor(config)
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
