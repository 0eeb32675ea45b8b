package fleet

import (
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Access is how the API server is reached: the values of kubectl's flags, empty for those of the kubeconfig.
type Access struct{ Kubeconfig, Context string }

// Config returns the configuration of a client: from the kubeconfig file, from those that KUBECONFIG names, or from
// ~/.kube/config.
func (a Access) Config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.Kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.Context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	config.QPS = -1 // few requests, each of which a user waits for
	return config, nil
}
