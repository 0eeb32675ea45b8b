package watcher

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// store is what a reflector of client-go fills with the objects of one resource. They are reduced as they arrive and go
// on into the catalog; the store itself has none.
type store struct {
	resource   resource
	api        *API
	client     rest.Interface
	connection *availability
}

// arrived is an object reduced. To the reflector it is an object like others.
type arrived struct {
	objectName
	put func(*catalog)
}

// GetObjectKind is there for runtime.Object.
func (a *arrived) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject is there for runtime.Object.
func (a *arrived) DeepCopyObject() runtime.Object { return a }

// reflector returns what lists and watches the resource, again and again until ctx ends.
func (s *store) reflector(ctx context.Context, backoff *wait.Backoff) *cache.Reflector {
	logger := klog.FromContext(ctx)
	r := cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch},
		s.resource.object, s,
		cache.ReflectorOptions{
			Name:    s.resource.name,
			Logger:  &logger,
			Clock:   endingClock{ctx: ctx},
			Backoff: backoff,
		},
	)
	return r
}

// list asks for all objects, or for a page of them. None of them is kept longer than until it is reduced.
func (s *store) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	full, err := s.request(options).Do(ctx).Get()
	s.observe(ctx, "list", err)
	if err != nil {
		return nil, err
	}
	head, err := meta.ListAccessor(full)
	if err != nil {
		return nil, err
	}
	list := &metav1.List{ListMeta: metav1.ListMeta{
		ResourceVersion:    head.GetResourceVersion(),
		Continue:           head.GetContinue(),
		RemainingItemCount: head.GetRemainingItemCount(),
	}}
	err = meta.EachListItem(full, func(o runtime.Object) error {
		reduced, err := s.reduce(o)
		if err == nil {
			list.Items = append(list.Items, runtime.RawExtension{Object: reduced})
		}
		return err
	})
	return list, err
}

func (s *store) watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
	options.Watch = true
	w, err := s.request(options).Watch(ctx)
	if err == nil && reflect.TypeOf(w) == reflect.TypeOf(apiwatch.NewEmptyWatch()) {
		// This is how the client says that the connection went away again and again.
		s.observe(ctx, "watch", io.ErrUnexpectedEOF)
		return w, nil
	}
	s.observe(ctx, "watch", err)
	return w, err
}

func (s *store) request(options metav1.ListOptions) *rest.Request {
	options.LabelSelector, options.FieldSelector = s.resource.labels, s.resource.fields
	return s.client.Get().Resource(s.resource.name).VersionedParams(&options, metav1.ParameterCodec)
}

// observe notes what became of a request. A resource that is optional is known to be missing if the server says so.
func (s *store) observe(ctx context.Context, verb string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.connection.observe(verb, s.resource, err)
	if s.resource.optional && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
		s.api.synced(s.resource.name)
	}
}

// reduce makes of an object what is to be kept of it.
func (s *store) reduce(o any) (*arrived, error) {
	if a, ok := o.(*arrived); ok {
		return a, nil
	}
	full, ok := o.(runtime.Object)
	if !ok || reflect.TypeOf(o) != reflect.TypeOf(s.resource.object) {
		return nil, fmt.Errorf("a %T among the %s", o, s.resource.name)
	}
	name, err := nameOf(full)
	return &arrived{name, s.resource.reduce(full)}, err
}

func nameOf(o any) (objectName, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return objectName{}, err
	}
	return objectName{m.GetNamespace(), m.GetName()}, nil
}

// Transformer has the reflector reduce what it collects until the initial stream is complete (cache.TransformingStore).
func (s *store) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.reduce(o) }
}

// Add puts an object that came into being.
func (s *store) Add(o any) error { return s.Update(o) }

// Update puts an object that is there.
func (s *store) Update(o any) error {
	at := time.Now()
	a, err := s.reduce(o)
	if err != nil {
		return err
	}
	s.api.change(at, a.put)
	return nil
}

// Delete removes an object, or one that is no longer selected.
func (s *store) Delete(o any) error {
	at := time.Now()
	name, err := nameOf(o)
	if err != nil {
		return err
	}
	s.api.change(at, func(c *catalog) { s.resource.remove(c, name) })
	return nil
}

// Replace takes the objects as all there are. It is how a reflector begins, and how it goes on after it has lost track.
func (s *store) Replace(objects []any, _ string) error {
	at := time.Now()
	all := make([]*arrived, len(objects))
	for i, o := range objects {
		var err error
		if all[i], err = s.reduce(o); err != nil {
			return err
		}
	}
	s.api.change(at, func(c *catalog) {
		there := make(map[objectName]bool, len(all))
		for _, a := range all {
			there[a.objectName] = true
			a.put(c)
		}
		for _, name := range s.resource.names(c) {
			if !there[name] {
				s.resource.remove(c, name)
			}
		}
	})
	s.api.synced(s.resource.name)
	return nil
}

// Resync does nothing: nothing is ever told twice.
func (s *store) Resync() error { return nil }

// endingClock is a clock that does not keep anybody waiting once ctx has ended. A reflector waits between attempts without
// looking at its context.
type endingClock struct {
	clock.RealClock
	ctx context.Context
}

// After returns a channel that gets the time after d, or when ctx ends.
func (c endingClock) After(d time.Duration) <-chan time.Time {
	fire := make(chan time.Time, 1)
	timer, cancel := context.WithTimeout(c.ctx, d)
	context.AfterFunc(timer, func() {
		fire <- time.Now()
		cancel()
	})
	return fire
}
