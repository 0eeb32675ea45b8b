package agent

import (
	"log/slog"
	"strings"
	"testing"

	"nfproxy/preflight"
)

// TestLogShortcomings: a problem is logged as an error, with advice; good results and warnings are not logged.
func TestLogShortcomings(t *testing.T) {
	var out strings.Builder
	logShortcomings([]preflight.Line{
		{Level: preflight.OK, Check: "kernel", Finding: "Linux 6.1"},
		{Level: preflight.Warning, Check: "namespace", Finding: "not tried"},
		{Level: preflight.Problem, Check: "numgen", Finding: "the kernel refuses it", Advice: "modprobe nft_numgen"},
	}, slog.New(slog.NewTextHandler(&out, nil)))
	const want = ` level=ERROR msg="this node lacks something that the rules need" check=numgen finding="the kernel refuses it" advice="modprobe nft_numgen"`
	if strings.Count(out.String(), "\n") != 1 || !strings.HasSuffix(out.String(), want+"\n") {
		t.Error(out.String())
	}
}
