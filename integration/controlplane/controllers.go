//go:build linux

package controlplane

import (
	"context"
	"crypto/tls"
	"net/http"
)

// controllersHealth is the URL of kube-controller-manager's health check.
const controllersHealth = "https://127.0.0.1:10257/healthz"

// StartControllerManager starts, in the control plane's namespace, the two
// controllers that create EndpointSlices, from Services with a selector and
// from Endpoints objects, and the controller that creates the Pods of
// DaemonSets. There is no scheduler and no kubelet for these Pods.
func (c *ControlPlane) StartControllerManager() {
	c.t.Helper()
	manager := start(c.t, c.ns, c.dir, "kube-controller-manager",
		"--kubeconfig="+c.Kubeconfig(c.admin),
		"--controllers=endpointslice-controller,endpointslice-mirroring-controller,daemonset-controller",
		"--leader-elect=false",
		"--bind-address="+loopback().String(),
		"--profiling=false",
	)
	transport := &http.Transport{
		DialContext:     c.dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // its certificate is self-signed
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	manager.await(c.t, func(ctx context.Context) error { return get(ctx, client, controllersHealth) })
}
