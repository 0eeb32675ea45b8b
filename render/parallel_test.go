package render

import (
	"fmt"
	"reflect"
	"testing"
)

// TestRulesOfMany: every Service is yielded once, in order, with its own rules, however the Services are divided between
// goroutines and chunks.
func TestRulesOfMany(t *testing.T) {
	n := Node{Name: "n"}
	services := make([]Service, 2*rulesChunk+1)
	for i := range services {
		services[i] = testService(fmt.Sprintf("service-%d", i), 1, fmt.Sprintf("10.96.%d.%d:80", i/250, i%250+1), fmt.Sprintf("10.244.%d.%d:80", i/250, i%250+1))
	}
	for _, count := range []int{0, 1, 2, 3, 4, 5, 17, rulesChunk - 1, rulesChunk, rulesChunk + 1, len(services)} {
		yielded := 0
		for s, rules := range rulesOf(n, services[:count]) {
			if want := services[yielded]; s.ServiceName != want.ServiceName || !reflect.DeepEqual(rules, RulesOf(n, want)) {
				t.Fatalf("%d Services: number %d is %s with %v", count, yielded, s.ServiceName, rules)
			}
			yielded++
		}
		if yielded != count {
			t.Errorf("%d of %d Services were yielded", yielded, count)
		}
	}
}
