//go:build linux

package controlplane

import (
	"context"
	"crypto/tls"
	"net/http"
)

// controllersHealth is where kube-controller-manager says that it runs.
const controllersHealth = "https://127.0.0.1:10257/healthz"

// StartControllerManager starts, in the control plane's namespace, the
// controllers that make EndpointSlices, from Services with a selector and the
// Pods it matches, and from Endpoints objects, and the one that makes the Pods of
// DaemonSets, which nobody schedules or runs.
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
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // it signs its own certificate
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	manager.await(c.t, func(ctx context.Context) error { return get(ctx, client, controllersHealth) })
}
