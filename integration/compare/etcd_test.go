package compare

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"nfproxy/integration/controlplane"
)

// store writes the Services of a size, and their EndpointSlices, from number from on to etcd.
func (p *population) store(ctx context.Context, from int, to size) error {
	const batch = controlplane.StoreLimit
	n := to.services - from
	err := inParallel((n+batch-1)/batch, func(b int) error {
		var all []controlplane.Stored
		for i := from + b*batch; i < min(from+(b+1)*batch, to.services); i++ {
			all = append(all, controlplane.Allocation(clusterIP(i), namespace, numberedName(i)))
		}
		return put(ctx, all)
	})
	if err != nil {
		return err
	}
	// The API server repairs Services whose addresses it does not know yet.
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	if err := inParallel(n, func(i int) error { return put(ctx, p.newObjects(from+i, to)) }); err != nil {
		return err
	}
	return p.awaitStored(ctx, to)
}

// put writes objects in one transaction.
func put(ctx context.Context, all []controlplane.Stored) error {
	return controlplane.Store(ctx, http.DefaultClient, all)
}

// awaitStored waits until the API server serves the last Services.
func (p *population) awaitStored(ctx context.Context, to size) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		slices, err := p.slicesOf(ctx, numberedName(to.services-1))
		if want := (to.endpoints + sliceSize - 1) / sliceSize; err == nil && len(slices) == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the API server does not serve what is in etcd: %d slices, %v", len(slices), err)
		}
	}
}
