package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"nfproxy/integration/controlplane"
)

// The Services of a population and their EndpointSlices are written to etcd, as the API server would store them: at each request for
// a Service the API server counts all allocated addresses twice (Allocator.Used in pkg/registry/core/service/ipallocator), and 100,000
// requests would take half an hour.

// stored is an object at a key below that of the API server.
type stored struct {
	key    string
	object runtime.Object
}

// store writes the Services of a size from number from on.
func (p *population) store(ctx context.Context, from int, to size) error {
	const batch = 100 // operations; etcd allows 128 in a transaction
	n := to.services - from
	err := inParallel((n+batch-1)/batch, func(b int) error {
		var all []stored
		for i := from + b*batch; i < min(from+(b+1)*batch, to.services); i++ {
			all = append(all, newAllocation(i))
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
func put(ctx context.Context, all []stored) error {
	type operation struct {
		RequestPut struct {
			Key   []byte `json:"key"`
			Value []byte `json:"value"`
		} `json:"requestPut"`
	}
	var transaction struct {
		Success []operation `json:"success"`
	}
	for _, s := range all {
		value, err := json.Marshal(s.object)
		if err != nil {
			return err
		}
		var put operation
		put.RequestPut.Key, put.RequestPut.Value = []byte("/registry/"+s.key), value
		transaction.Success = append(transaction.Success, put)
	}
	body, err := json.Marshal(transaction)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, controlplane.EtcdURL+"/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("write %s and others to etcd: %s: %s", all[0].key, response.Status, text)
	}
	return nil
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
