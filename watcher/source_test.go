package watcher

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"nfproxy/integration/controlplane"
	"nfproxy/logtest"
	"nfproxy/render"
	"nfproxy/sandbox"
)

// cluster holds objects: a directory or an API server.
type cluster interface {
	// put creates or replaces an object, remove deletes it, and open opens a source that reads the objects.
	put(w *world, o runtime.Object)
	remove(w *world, o runtime.Object)
	open(w *world) (source, error)
}

// world is a cluster and a source that watches it.
type world struct {
	*watched
	cluster cluster
	// there are the objects that the test has put.
	there map[objectKey]runtime.Object
}

// newWorld puts the objects, opens a source and takes its first Update. At the end of the test the source is closed and the
// objects are removed.
func newWorld(t *testing.T, c cluster, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{watched: newWatched(t, nil, new(logtest.Buffer)), cluster: c, there: map[objectKey]runtime.Object{}}
	t.Cleanup(func() {
		if w.source != nil {
			w.must(w.source.Close())
		}
		for _, o := range w.there {
			w.cluster.remove(w, o)
		}
	})
	w.put(objects...)
	var err error
	if w.source, err = c.open(w); err != nil {
		t.Fatal(err)
	}
	if _, err := w.next(patience); err != nil {
		t.Fatalf("first Update: %v; log:\n%s", err, w.log.Lines())
	}
	if w.last.Triggered != nil {
		t.Errorf("the first Update has trigger times: %v", w.last.Triggered)
	}
	return w
}

// logger logs at all levels, including the messages of client-go.
func (w *world) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
}

func keyOf(t *testing.T, o runtime.Object) objectKey {
	t.Helper()
	m, err := meta.Accessor(o)
	if err != nil {
		t.Fatal(err)
	}
	return objectKey{fmt.Sprintf("%T", o), m.GetNamespace(), m.GetName()}
}

func (w *world) put(objects ...runtime.Object) {
	w.Helper()
	for _, o := range objects {
		w.cluster.put(w, o.DeepCopyObject())
		w.there[keyOf(w.T, o)] = o
	}
}

func (w *world) remove(o runtime.Object) {
	w.Helper()
	w.cluster.remove(w, o)
	delete(w.there, keyOf(w.T, o))
}

// quiet fails if an Update is pending. Instead of waiting it puts a marker into each stream: changes are reported in order,
// so the markers' Updates would come after any other.
func (w *world) quiet() {
	w.Helper()
	before, node := w.services(), w.last.Node
	marker, from := aService("zz-marker", "10.96.255.250"), aSlice("zz-marker-1", "zz-marker", "10.1.255.1")
	w.put(marker, from)
	for !slices.Contains(w.services(), "zz-marker http 80/tcp 10.1.255.1:8080") {
		update, err := w.next(patience)
		if err != nil {
			w.Fatal(err)
		}
		if len(update.Services) != 1 || update.Services[0].Name != "zz-marker" || len(update.Removed) > 0 || !update.Node.Equal(node) {
			w.Fatalf("unexpected Update: %v", update)
		}
	}
	w.remove(marker)
	w.remove(from)
	w.until(before...)
}

// only takes an Update and fails unless it contains these Services and no other change but of the eligibility.
func (w *world) only(names ...string) render.Update {
	w.Helper()
	before := w.last
	update, err := w.next(patience)
	if err != nil {
		w.Fatal(err)
	}
	var got []string
	for _, s := range update.Services {
		got = append(got, s.Name)
	}
	if !slices.Equal(got, names) || len(update.Removed) > 0 || !update.Node.Equal(before.Node) {
		w.Fatalf("Update %v, want Services %v", update, names)
	}
	return update
}

func aService(name, ip string) *corev1.Service {
	return &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
}

func aSlice(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
	s := apiSlice(name, func(s *discoveryv1.EndpointSlice) {
		s.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
		s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		s.Endpoints = []discoveryv1.Endpoint{}
	})
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, apiEndpoint(a))
	}
	return s
}

func aNode(zone string, addresses ...string) *corev1.Node {
	n := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: zone}},
	}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// with returns a changed copy of an object.
func with[T runtime.Object](o T, change func(T)) T {
	changed := o.DeepCopyObject().(T)
	change(changed)
	return changed
}

// manifests is a cluster in a directory with a file for each object.
type manifests struct{ path string }

func (m manifests) file(w *world, o runtime.Object) string {
	key := keyOf(w.T, o)
	return filepath.Join(m.path, key.kind[1:]+"."+key.name+".yaml")
}

func (m manifests) put(w *world, o runtime.Object) {
	w.Helper()
	text, err := json.Marshal(o)
	w.must(err)
	writeFile(w.T, m.file(w, o), string(text))
}

func (m manifests) remove(w *world, o runtime.Object) {
	w.Helper()
	w.must(os.Remove(m.file(w, o)))
}

func (m manifests) open(w *world) (source, error) {
	return NewDir(m.path, render.Node{Name: "n1"}, w.logger())
}

// server is a cluster with an API server.
type server struct {
	*controlplane.ControlPlane
	clients *kubernetes.Clientset
	// config is the configuration of the source.
	config *rest.Config
}

// newServer starts a control plane in a separate network namespace.
func newServer(t *testing.T) *server {
	t.Helper()
	ns, err := sandbox.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	s := &server{ControlPlane: controlplane.Start(t, ns)}
	s.config = s.AdminConfig()
	if s.clients, err = kubernetes.NewForConfig(s.AdminConfig()); err != nil {
		t.Fatal(err)
	}
	return s
}

// client is the common part of typed clients.
type client[T any] interface {
	Get(context.Context, string, metav1.GetOptions) (T, error)
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
}

func put[T metav1.Object](w *world, at client[T], o T) {
	w.Helper()
	have, err := at.Get(w.Context(), o.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = at.Create(w.Context(), o, metav1.CreateOptions{})
	case err == nil:
		o.SetResourceVersion(have.GetResourceVersion())
		_, err = at.Update(w.Context(), o, metav1.UpdateOptions{})
	}
	w.must(err)
}

func (s *server) put(w *world, o runtime.Object) {
	w.Helper()
	switch o := o.(type) {
	case *corev1.Service:
		put(w, s.clients.CoreV1().Services(o.Namespace), o)
	case *discoveryv1.EndpointSlice:
		put(w, s.clients.DiscoveryV1().EndpointSlices(o.Namespace), o)
	case *networkingv1.ServiceCIDR:
		put(w, s.clients.NetworkingV1().ServiceCIDRs(), o)
	case *corev1.Node:
		status := o.Status
		put(w, s.clients.CoreV1().Nodes(), o)
		have, err := s.clients.CoreV1().Nodes().Get(w.Context(), o.Name, metav1.GetOptions{})
		w.must(err)
		have.Status = status
		_, err = s.clients.CoreV1().Nodes().UpdateStatus(w.Context(), have, metav1.UpdateOptions{})
		w.must(err)
	default:
		w.Fatalf("unknown type %T", o)
	}
}

func (s *server) remove(w *world, o runtime.Object) {
	w.Helper()
	key, ctx := keyOf(w.T, o), context.Background() // remove is called after the test, too
	var now metav1.DeleteOptions
	var err error
	switch o.(type) {
	case *corev1.Service:
		err = s.clients.CoreV1().Services(key.namespace).Delete(ctx, key.name, now)
	case *discoveryv1.EndpointSlice:
		err = s.clients.DiscoveryV1().EndpointSlices(key.namespace).Delete(ctx, key.name, now)
	case *networkingv1.ServiceCIDR:
		err = s.clients.NetworkingV1().ServiceCIDRs().Delete(ctx, key.name, now)
	case *corev1.Node:
		err = s.clients.CoreV1().Nodes().Delete(ctx, key.name, now)
	}
	w.must(err)
}

func (s *server) open(w *world) (source, error) {
	return newAPI(s.config, render.Node{Name: "n1"}, nodePortAddresses{}, shortPace(), w.logger())
}

// TestSources runs each scenario with both sources.
func TestSources(t *testing.T) {
	t.Parallel()
	for name, scenario := range scenarios() {
		t.Run("dir/"+name, func(t *testing.T) {
			t.Parallel()
			scenario(t, manifests{t.TempDir()})
		})
	}
	t.Run("api", func(t *testing.T) {
		t.Parallel()
		api := newServer(t)
		for name, scenario := range scenarios() {
			t.Run(name, func(t *testing.T) { scenario(t, api) })
		}
	})
}

// at returns the annotations of an EndpointSlice whose last change was triggered at the time.
func at(trigger time.Time) map[string]string {
	return map[string]string{corev1.EndpointsLastChangeTriggerTime: trigger.Format(time.RFC3339Nano)}
}
