//go:build linux

package controlplane

import (
	"context"
	"crypto/tls"
	"net/http"
)

// The URLs of health checks.
const (
	controllersHealth = "https://127.0.0.1:10257/healthz"
	schedulerHealth   = "https://127.0.0.1:10259/healthz"
)

// StartControllerManager starts, in the control plane's namespace, the two
// controllers that create EndpointSlices, from Services with a selector and
// from Endpoints objects, and the controller that creates the Pods of
// DaemonSets. There is no scheduler and no kubelet for these Pods.
func (c *ControlPlane) StartControllerManager() {
	c.t.Helper()
	c.startControllers("--controllers=endpointslice-controller,endpointslice-mirroring-controller,daemonset-controller")
}

// startControllers starts kube-controller-manager.
func (c *ControlPlane) startControllers(flags ...string) {
	c.t.Helper()
	c.startClient("kube-controller-manager", controllersHealth, append(flags, "--profiling=false")...)
}

// startScheduler starts kube-scheduler.
func (c *ControlPlane) startScheduler() {
	c.t.Helper()
	c.startClient("kube-scheduler", schedulerHealth, "--kube-api-qps=100", "--kube-api-burst=200")
}

// startClient starts a program of the control plane that is a client of the API server, and returns when it is healthy.
func (c *ControlPlane) startClient(name, health string, flags ...string) {
	c.t.Helper()
	common := []string{"--kubeconfig=" + c.Kubeconfig(c.admin), "--leader-elect=false", "--bind-address=" + loopback().String()}
	program := startProcess(c.t, c.ns, c.dir, name, append(common, flags...)...)
	transport := &http.Transport{
		DialContext:     c.dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // its certificate is self-signed
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	program.await(c.t, func(ctx context.Context) error { return get(ctx, client, health) })
}
