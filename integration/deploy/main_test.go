// Package deploy tests what deploy/ ships: the manifests, the chart, the systemd unit and the monitoring, the privileges that
// they give nfproxy, and the migration of a node from kube-proxy.
package deploy

import (
	"testing"

	"nfproxy/integration/cluster"
)

func TestMain(m *testing.M) { cluster.Main(m, map[string]func(){"confine": confine}) }
