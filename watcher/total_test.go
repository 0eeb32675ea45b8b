package watcher

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"nfproxy/render"
)

// TestTotal: an Update holds the Services that all together cost too much as they are served, also those that change because
// another one came or went, and is sorted.
func TestTotal(t *testing.T) {
	c := newCatalog(slog.New(slog.DiscardHandler))
	put := func(name string, ports, created int) {
		c.putService(reduceService(apiService(func(s *corev1.Service) {
			s.Name, s.CreationTimestamp, s.Spec.Ports = name, metav1.NewTime(time.Unix(int64(created), 0)), nil
			for i := range ports {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: string(rune('a' + i)), Port: int32(i + 1)})
			}
		}), render.Instance{}))
	}
	node := render.Node{Name: "n", MaxElements: 49}
	expect := func(step string, want ...string) {
		t.Helper()
		u, _ := c.update(node)
		var got []string
		for _, s := range u.Services {
			text := s.Name
			if s.Excess == render.WithoutRoom && len(s.Ports) == 0 && len(s.ClusterIPs) > 0 {
				text += " left out"
			} else if s.Excess != render.NoExcess || len(s.Ports) == 0 {
				text += " " + s.Excess.String()
			}
			got = append(got, text)
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %q, want %q", step, got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Errorf("%s: %q, want %q", step, got, want)
			}
		}
	}
	put("b", 10, 2)
	put("x", 3, 3)
	expect("all fit", "b", "x")
	put("a", 12, 1)
	expect("an older Service of the same size", "a", "b left out")
	put("y", 3, 4)
	expect("a smaller Service", "y")
	put("z", 3, 5)
	expect("one more", "a left out", "z")
	c.removeService(render.ServiceName{Namespace: "default", Name: "y"})
	c.removeService(render.ServiceName{Namespace: "default", Name: "z"})
	expect("both are gone", "a")
	node.MaxElements = 100
	expect("another bound", "a", "b", "x")
}
