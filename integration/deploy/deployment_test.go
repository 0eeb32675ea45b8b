package deploy

import (
	"flag"
	"os"
	"testing"

	"nfproxy/integration/cluster"
)

// deployment is a cluster onto which the tests of this package deploy nfproxy.
type deployment struct{ *cluster.Cluster }

// newDeployment returns a cluster on which nothing is deployed yet.
func newDeployment(t testing.TB) *deployment {
	t.Helper()
	return &deployment{cluster.New(t)}
}

var update = flag.Bool("update", false, "rewrite the generated parts of the chart; review the difference before you commit it")

// readFile returns the content of a file, whose path is relative to the module's root.
func readFile(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
