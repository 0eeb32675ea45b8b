package watcher

import (
	"context"
	"fmt"
	"reflect"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// store receives the objects of one resource from a client-go reflector (cache.ReflectorStore), reduces them and passes
// them on to the catalog. It holds no objects.
type store struct {
	resource     resource
	api          *API
	client       rest.Interface
	availability *availability
	pace         pace
	// repeats limits the watch requests.
	repeats flowcontrol.RateLimiter
}

func newStore(r resource, a *API, client rest.Interface, server *availability, p pace) *store {
	return &store{
		resource:     r,
		api:          a,
		client:       client,
		availability: server,
		pace:         p,
		repeats:      flowcontrol.NewTokenBucketRateLimiter(float32(1/p.repeat.Seconds()), p.burst),
	}
}

// reducedObject is an object of a list after its reduction. Lists are reduced before the reflector gets them, so that the
// full objects can be freed page by page. A list item has to be a runtime.Object; the reflector only passes it on.
type reducedObject struct {
	key objectKey
	object
}

// GetObjectKind implements runtime.Object.
func (*reducedObject) GetObjectKind() schema.ObjectKind { return schema.EmptyObjectKind }

// DeepCopyObject implements runtime.Object. A reduced object never changes, so it is its own copy.
func (r *reducedObject) DeepCopyObject() runtime.Object { return r }

// reflector returns a reflector that lists and watches the resource until ctx ends.
func (s *store) reflector(ctx context.Context) *cache.Reflector {
	logger := klog.FromContext(ctx)
	return cache.NewReflectorWithOptions(
		&cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch},
		s.resource.object, s,
		cache.ReflectorOptions{
			Name:    s.resource.name,
			Logger:  &logger,
			Clock:   endingClock{ctx: ctx},
			Backoff: s.pace.backoff,
		},
	)
}

// list requests all objects, or one page of them, and returns them reduced.
//
// A reflector that knows no objects yet accepts any state (resource version 0), which a lagging API server may answer with an
// old one: a restart would bring removed endpoints back. list requests the latest state instead.
func (s *store) list(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	if options.ResourceVersion == "0" {
		options.ResourceVersion = ""
	}
	limited, cancel := context.WithTimeout(ctx, s.pace.list)
	defer cancel()
	full, err := s.request(options).Do(limited).Get()
	s.observe(ctx, "list", err)
	if err != nil {
		s.heed(ctx, err)
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

// watch begins a watch, which ends when the server should have ended it, at the latest.
func (s *store) watch(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
	if err := s.repeats.Wait(ctx); err != nil {
		return nil, err
	}
	options.Watch = true
	limit := s.pace.answer
	if options.TimeoutSeconds != nil {
		limit += time.Duration(*options.TimeoutSeconds) * time.Second
	}
	var cause error
	limited, cancel := context.WithTimeout(withCause(ctx, &cause), limit)
	w, err := s.request(options).Watch(limited)
	if err == nil && reflect.TypeOf(w) == reflect.TypeOf(apiwatch.NewEmptyWatch()) {
		// The client returns an empty watch after a broken connection or a timeout.
		err = cause
	}
	s.observe(ctx, "watch", err)
	if err == nil {
		return limitedWatch{w, cancel}, nil
	}
	cancel()
	s.heed(ctx, err)
	if !isStatus(err) {
		err = noAnswer{err}
	}
	return nil, err
}

// limitedWatch is a watch with a context that ends with it.
type limitedWatch struct {
	apiwatch.Interface
	cancel context.CancelFunc
}

// Stop ends the watch.
func (w limitedWatch) Stop() {
	w.Interface.Stop()
	w.cancel()
}

// noAnswer is the error of a watch request to which there was no response. A reflector repeats a watch from where it ended
// only if it recognises the error as ECONNREFUSED; after others it requests all objects again. Thousands of nodes would do so
// together when a load balancer restarts.
type noAnswer struct{ error }

// Unwrap returns the error that the reflector recognises.
func (noAnswer) Unwrap() error { return syscall.ECONNREFUSED }

// heed waits as long as the server demands in its response (Retry-After), but not longer than the pace allows.
func (s *store) heed(ctx context.Context, err error) {
	seconds, demanded := apierrors.SuggestsClientDelay(err)
	if !demanded {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(min(time.Duration(seconds)*time.Second, s.pace.heed)):
	}
}

func (s *store) request(options metav1.ListOptions) *rest.Request {
	options.LabelSelector, options.FieldSelector = s.resource.labels, s.resource.fields
	// The client's own retries would wait as long as a response demands, and hide failures from the log.
	return s.client.Get().Resource(s.resource.name).VersionedParams(&options, metav1.ParameterCodec).MaxRetries(0)
}

// observe records the result of a request. An optional resource that is absent or forbidden counts as synced.
func (s *store) observe(ctx context.Context, verb string, err error) {
	if ctx.Err() != nil {
		return
	}
	s.availability.observe(verb, s.resource, err)
	if s.resource.optional && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
		s.api.synced(s.resource.name)
	}
}

// reduce reduces an object, unless it has been reduced before.
func (s *store) reduce(o any) (*reducedObject, error) {
	if reduced, ok := o.(*reducedObject); ok {
		return reduced, nil
	}
	full, ok := o.(runtime.Object)
	if !ok || reflect.TypeOf(o) != reflect.TypeOf(s.resource.object) {
		return nil, fmt.Errorf("resource %s: unexpected object of type %T", s.resource.name, o)
	}
	key, err := s.key(full)
	return &reducedObject{key, s.resource.reduce(full)}, err
}

// key returns the key of an object that is not reduced.
func (s *store) key(o any) (objectKey, error) {
	m, err := meta.Accessor(o)
	if err != nil {
		return objectKey{}, err
	}
	return objectKey{s.resource.kind, m.GetNamespace(), m.GetName()}, nil
}

// Transformer makes the reflector reduce the objects that it collects until an initial stream is complete
// (cache.TransformingStore).
func (s *store) Transformer() cache.TransformFunc {
	return func(o any) (any, error) { return s.reduce(o) }
}

// Add adds an object.
func (s *store) Add(o any) error { return s.Update(o) }

// Update adds or replaces an object.
func (s *store) Update(o any) error {
	at := time.Now()
	reduced, err := s.reduce(o)
	if err != nil {
		return err
	}
	s.api.change(at, func(c *catalog) { c.put(reduced.object) })
	return nil
}

// Delete removes an object that was deleted or is no longer selected.
func (s *store) Delete(o any) error {
	at := time.Now()
	key, err := s.key(o)
	if err != nil {
		return err
	}
	s.api.change(at, func(c *catalog) { c.remove(key) })
	return nil
}

// Replace replaces all objects. A reflector calls it with the initial objects, and again after it has lost track of the
// changes.
func (s *store) Replace(objects []any, _ string) error {
	at := time.Now()
	all := make([]*reducedObject, len(objects))
	for i, o := range objects {
		var err error
		if all[i], err = s.reduce(o); err != nil {
			return err
		}
	}
	s.api.change(at, func(c *catalog) {
		keep := make(map[objectKey]bool, len(all))
		for _, r := range all {
			keep[r.key] = true
			c.put(r.object)
		}
		c.retain(s.resource.kind, keep)
	})
	s.api.synced(s.resource.name)
	return nil
}

// Resync does nothing: objects are never reported twice.
func (s *store) Resync() error { return nil }

// endingClock is a clock whose timers fire at once when ctx ends. A reflector waits between attempts without regard to its
// context.
type endingClock struct {
	clock.RealClock
	ctx context.Context
}

// After returns a channel that receives the time after d or when ctx ends.
func (c endingClock) After(d time.Duration) <-chan time.Time {
	fire := make(chan time.Time, 1)
	timer, cancel := context.WithTimeout(c.ctx, d)
	context.AfterFunc(timer, func() {
		fire <- time.Now()
		cancel()
	})
	return fire
}
