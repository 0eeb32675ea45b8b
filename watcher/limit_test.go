package watcher

import (
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
	"nfproxy/render"
)

// TestReduceLimits: the annotations of limits, and the problems of those that are not valid.
func TestReduceLimits(t *testing.T) {
	second := func(n uint64, burst uint32) nft.Limit {
		return nft.Limit{Packets: n, Per: time.Second, Burst: burst}
	}
	rate := func(l nft.Limit) render.Limits { return render.Limits{Rate: l} }
	for _, c := range []struct {
		rate, client, over string // "-" for no annotation
		want               render.Limits
		problems           []string
	}{
		{"-", "-", "-", render.Limits{}, nil},
		{"100/s", "-", "-", rate(second(100, 100)), nil},
		{"2/s", "-", "-", rate(second(2, 5)), nil},
		{"60/m", "-", "-", rate(nft.Limit{Packets: 60, Per: time.Minute, Burst: 5}), nil},
		{"1000000/s", "-", "-", rate(second(1_000_000, 1_000_000)), nil},
		{"7/h burst 1", "-", "refuse", rate(nft.Limit{Packets: 7, Per: time.Hour, Burst: 1}), nil},
		{"-", "10/s burst 20", "drop", render.Limits{ClientRate: second(10, 20), Drop: true}, nil},
		{"9/s", "3/s", "drop", render.Limits{Rate: second(9, 9), ClientRate: second(3, 5), Drop: true}, nil},
		{"0/s", "-", "-", render.Limits{}, []string{`max-connection-rate] "0/s" is not a rate of 1 to 1000000`}},
		{"1000001/s", "-", "-", render.Limits{}, []string{`"1000001/s" is not a rate of 1 to 1000000`}},
		{"99999999999999999999/s", "-", "-", render.Limits{}, []string{"is not a rate of 1 to 1000000"}},
		{"-5/s", "-", "-", render.Limits{}, []string{`"-5/s" is not a rate such as 100/s`}},
		{"100", "-", "-", render.Limits{}, []string{"is not a rate such as"}},
		{"100/d", "-", "-", render.Limits{}, []string{"is not a rate such as"}},
		{" 100/s", "-", "-", render.Limits{}, []string{"is not a rate such as"}},
		{"", "5/s", "-", render.Limits{ClientRate: second(5, 5)}, []string{"is not a rate such as"}},
		{"-", "x", "drop", render.Limits{}, []string{`max-connection-rate-per-client] "x" is not`, `over-limit] "drop" has no effect without a limit`}},
		{"100/s burst 0", "-", "-", rate(second(100, 100)), []string{"has no burst of 1 to 1000000; the burst is 100"}},
		{"1/s burst 99999999999", "-", "-", rate(second(1, 5)), []string{"the burst is 5"}},
		{"1/s", "-", "reject", rate(second(1, 5)), []string{`over-limit] "reject" is neither refuse nor drop; connections over the limit are refused`}},
	} {
		annotations := make(map[string]string)
		for name, value := range map[string]string{annotationRate: c.rate, annotationClientRate: c.client, annotationOverLimit: c.over} {
			if value != "-" {
				annotations[name] = value
			}
		}
		var problems []Problem
		got := reduceLimits(annotations, newProblemList(&problems, objectKey{serviceKind, "ns", "s"}))
		if got != c.want {
			t.Errorf("%q: %+v, want %+v", annotations, got, c.want)
		}
		if len(problems) != len(c.problems) {
			t.Errorf("%q: problems %v, want %q", annotations, problems, c.problems)
			continue
		}
		for i, p := range problems {
			if text := p.Field + " " + p.Detail; !strings.Contains(text, c.problems[i]) {
				t.Errorf("%q: problem %q, want %q", annotations, text, c.problems[i])
			}
		}
	}
}
