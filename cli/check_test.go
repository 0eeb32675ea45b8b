package cli

import (
	"bytes"
	"encoding/json"
	"testing"

	"nfproxy/preflight"
)

// TestCheckReport: the text, the JSON, and the error that sets the exit code.
func TestCheckReport(t *testing.T) {
	fine := preflight.Line{Level: preflight.OK, Check: "kernel", Finding: "Linux 6.1"}
	odd := preflight.Line{Level: preflight.Warning, Check: "ipvs", Finding: "2 < 3 & \x1b[2J\nmore", Advice: "look"}
	bad := preflight.Line{Level: preflight.Problem, Check: "teapot", Finding: "none", Advice: "modprobe nft_teapot"}
	var text bytes.Buffer
	if err := reportLines([]preflight.Line{fine, odd, bad}, writeCheckText, &text); err == nil || err.Error() != "problems on this node: 1" {
		t.Error(err)
	}
	const want = "ok       kernel                 Linux 6.1\n" +
		"warning  ipvs                   2 < 3 & \\x1b[2J\\nmore\n                                what to do: look\n" +
		"problem  teapot                 none\n                                what to do: modprobe nft_teapot\n" +
		"ok: 1, warnings: 1, problems: 1\n"
	if text.String() != want {
		t.Errorf("%s", text.String())
	}
	for _, c := range []struct {
		lines []preflight.Line
		want  preflight.Level
	}{{[]preflight.Line{fine}, preflight.OK}, {[]preflight.Line{odd, fine}, preflight.Warning}, {[]preflight.Line{bad, odd}, preflight.Problem}} {
		var out bytes.Buffer
		err := reportLines(c.lines, writeCheckJSON, &out)
		if (err != nil) != (c.want == preflight.Problem) {
			t.Errorf("%s: %v", c.want, err)
		}
		var got struct {
			Result preflight.Level
			Lines  []preflight.Line
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Result != c.want || len(got.Lines) != len(c.lines) || got.Lines[0] != c.lines[0] {
			t.Errorf("%v: %s", err, out.String())
		}
	}
}
