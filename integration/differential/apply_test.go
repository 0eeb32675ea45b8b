package differential

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// apiObject is an object that the tests write to the API server.
type apiObject interface {
	comparable
	metav1.Object
}

// client is the part of a typed client that kind needs.
type client[T apiObject] interface {
	Create(context.Context, T, metav1.CreateOptions) (T, error)
	Update(context.Context, T, metav1.UpdateOptions) (T, error)
	Delete(context.Context, string, metav1.DeleteOptions) error
	Get(context.Context, string, metav1.GetOptions) (T, error)
}

// apply changes the objects of the API server from one state to another. It returns the names of the objects that it had to delete
// and create anew, because a field that changes is immutable.
func apply(ctx context.Context, api *kubernetes.Clientset, from, to state) (recreated []string, err error) {
	again := func(name string) { recreated = append(recreated, name) }
	var fromNode, toNode []*corev1.Node
	if from.node != nil {
		fromNode = append(fromNode, from.node)
	}
	if to.node != nil {
		toNode = append(toNode, to.node)
	}
	if err := applyKind(ctx, api.CoreV1().Nodes(), fromNode, toNode, again, func(old, now *corev1.Node) error {
		now.Status = old.Status
		_, err := api.CoreV1().Nodes().UpdateStatus(ctx, now, metav1.UpdateOptions{})
		return err
	}); err != nil {
		return nil, err
	}
	if err := applyKind(ctx, api.NetworkingV1().ServiceCIDRs(), from.cidrs, to.cidrs, again, func(_, _ *networkingv1.ServiceCIDR) error { return nil }); err != nil {
		return nil, err
	}
	if err := applyKind(ctx, api.CoreV1().Services("default"), from.services, to.services, again, func(want, now *corev1.Service) error {
		now.Status = want.Status
		_, err := api.CoreV1().Services("default").UpdateStatus(ctx, now, metav1.UpdateOptions{})
		return err
	}); err != nil {
		return nil, err
	}
	err = applyKind(ctx, api.DiscoveryV1().EndpointSlices("default"), from.slices, to.slices, again, func(_, _ *discoveryv1.EndpointSlice) error { return nil })
	return recreated, err
}

// applyKind changes the objects of one kind. The status of an object is written by a call of its own. An update that the API
// server rejects becomes a deletion and a creation.
func applyKind[T apiObject](ctx context.Context, c client[T], from, to []T, again func(name string), status func(want, now T) error) error {
	var zero T
	old := make(map[string]T)
	for _, o := range from {
		old[o.GetName()] = o
	}
	wanted := make(map[string]bool)
	for _, o := range to {
		wanted[o.GetName()] = true
	}
	for _, o := range from {
		if !wanted[o.GetName()] {
			if err := c.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete %s: %w", o.GetName(), err)
			}
		}
	}
	for _, o := range to {
		before := old[o.GetName()]
		if before != zero && equality.Semantic.DeepEqual(before, o) {
			continue
		}
		now, err := write(ctx, c, o, before != zero, again)
		if err == nil {
			err = status(o, now)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// write creates or updates an object.
func write[T apiObject](ctx context.Context, c client[T], o T, exists bool, again func(name string)) (T, error) {
	if exists {
		now, err := c.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return now, err
		}
		o.SetResourceVersion(now.GetResourceVersion())
		now, err = c.Update(ctx, o, metav1.UpdateOptions{})
		o.SetResourceVersion("")
		if !apierrors.IsInvalid(err) {
			return now, err
		}
		if err := c.Delete(ctx, o.GetName(), metav1.DeleteOptions{}); err != nil {
			return now, err
		}
		again(o.GetName())
	}
	return c.Create(ctx, o, metav1.CreateOptions{})
}
