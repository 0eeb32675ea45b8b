package faults

import (
	"testing"

	"nfproxy/integration/cluster"
	"nfproxy/integration/supervise"
)

func TestMain(m *testing.M) { cluster.Main(m, map[string]func(){supervise.Launcher: supervise.Launch}) }
