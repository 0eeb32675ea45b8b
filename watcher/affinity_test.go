package watcher

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestReduceAffinity: the timeout of session affinity, and the problems with invalid settings.
func TestReduceAffinity(t *testing.T) {
	t.Parallel()
	const timeout = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
	for _, c := range []struct {
		affinity corev1.ServiceAffinity
		seconds  int32 // -9: not set
		want     time.Duration
		problem  string
	}{
		{"", -9, 0, ""},
		{"None", 60, 0, ""},
		{"ClientIP", -9, 3 * time.Hour, ""},
		{"ClientIP", 60, time.Minute, ""},
		{"ClientIP", 86400, 24 * time.Hour, ""},
		{"ClientIP", 0, time.Second, timeout},
		{"ClientIP", -1, time.Second, timeout},
		{"ClientIP", 1 << 30, 24 * time.Hour, timeout},
		{"Cookie", -9, 0, "spec.sessionAffinity"},
	} {
		spec := corev1.ServiceSpec{SessionAffinity: c.affinity}
		if c.seconds != -9 {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &c.seconds}}
		}
		var problems []Problem
		got := reduceAffinity(spec, problemList{to: &problems})
		var field string
		if len(problems) > 0 {
			field = problems[0].Field
		}
		if got != c.want || field != c.problem {
			t.Errorf("%q, %d s: %v, problem with %q", c.affinity, c.seconds, got, field)
		}
	}
}
