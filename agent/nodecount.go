package agent

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// The nodes are counted at the start and about every hour, not when there is an Event to write: then all nodes would count at
// once. A count that fails is repeated after some seconds.
const (
	countInterval = time.Hour
	countRetry    = 5 * time.Second
	countTimeout  = 10 * time.Second
)

// unknownNodes is the number of nodes if the API server denies access to Nodes: the largest that Kubernetes supports.
const unknownNodes = 5000

// nodeCounter counts the Nodes of the cluster, by a list of one Node: the API server tells how many remain.
type nodeCounter struct {
	client *rest.RESTClient
}

// count returns the number of nodes, 0 if the API server does not tell it, and when to count again.
func (c nodeCounter) count(ctx context.Context, log *slog.Logger) (nodes int, next time.Duration) {
	nodes, err := c.list(ctx)
	switch {
	case apierrors.IsForbidden(err):
		log.Debug("counting the nodes is forbidden", "error", err)
		nodes, next = unknownNodes, countInterval
	case err != nil:
		log.Debug("counting the nodes failed", "error", err)
		nodes, next = 0, countRetry
	default:
		log.Debug("counted the nodes", "nodes", nodes)
		next = countInterval
	}
	return nodes, next + rand.N(next)
}

// list requests one Node and returns the number of all.
func (c nodeCounter) list(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	body, err := c.client.Get().Resource("nodes").Param("limit", "1").
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").DoRaw(ctx)
	if err != nil {
		return 0, err
	}
	var list metav1.PartialObjectMetadataList
	if err := json.Unmarshal(body, &list); err != nil {
		return 0, err
	}
	n := len(list.Items)
	if list.RemainingItemCount != nil {
		n += int(*list.RemainingItemCount)
	}
	return max(n, 1), nil
}
