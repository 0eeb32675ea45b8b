package main

import "testing"

// deployment is a cluster onto which the tests of this package deploy nfproxy.
type deployment struct{ *testCluster }

// newDeployment returns a cluster on which nothing is deployed yet.
func newDeployment(t testing.TB) *deployment {
	t.Helper()
	return &deployment{newTestCluster(t)}
}
