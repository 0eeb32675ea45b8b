// Package e2e is Kubernetes' own program of end-to-end tests with the tests of [sig-network] alone: the packages of the other groups,
// which the program e2e.test of a release contains too, take several times as long to build.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	_ "github.com/onsi/ginkgo/v2" // the program ginkgo looks for this import
	conformancetestdata "k8s.io/kubernetes/test/conformance/testdata"
	kubernetes "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/e2e/common/network"
	_ "k8s.io/kubernetes/test/e2e/feature"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/metrics/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
	"k8s.io/kubernetes/test/e2e/framework/testfiles"
	_ "k8s.io/kubernetes/test/e2e/network"
	e2etestingmanifests "k8s.io/kubernetes/test/e2e/testing-manifests"
	testfixtures "k8s.io/kubernetes/test/fixtures"
	_ "k8s.io/kubernetes/test/utils/format"
	"k8s.io/kubernetes/test/utils/image"
)

// TestMain accepts the flags of Kubernetes' program. With the flag -images it prints the images that its tests run, and no test runs.
func TestMain(m *testing.M) {
	images := flag.Bool("images", false, "print the names of the images, one a line, and the name of each image by which the tests call it")
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	if *images {
		for short, id := range map[string]image.ImageID{
			"agnhost": image.Agnhost, "busybox": image.BusyBox, "glibc-dns-testing": image.GlibcDnsTesting, "nginx": image.Nginx, "nginx-new": image.NginxNew, "pause": image.Pause,
			"regression-issue-74839": image.RegressionIssue74839,
		} {
			fmt.Println(short, image.GetE2EImage(id))
		}
		os.Exit(0)
	}
	testfiles.AddFileSource(e2etestingmanifests.GetE2ETestingManifestsFS())
	testfiles.AddFileSource(testfixtures.GetTestFixturesFS())
	testfiles.AddFileSource(conformancetestdata.GetConformanceTestdataFS())
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

// TestE2E runs the tests.
func TestE2E(t *testing.T) { kubernetes.RunE2ETests(t) }
