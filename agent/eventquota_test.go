package agent

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"nfproxy/render"
)

// quotaTest is a cluster of nodes that find the same causes for Events.
type quotaTest struct {
	nodes []*eventQuota
	now   time.Time
}

func newQuotaTest(nodes int) *quotaTest {
	s := &quotaTest{now: time.Unix(1000, 0)}
	random := rand.New(rand.NewPCG(1, 2))
	for range nodes {
		q := newEventQuota(random.Float64)
		q.setNodes(nodes)
		s.nodes = append(s.nodes, q)
	}
	return s
}

// event returns an Event about one of many Services.
func (s *quotaTest) event(service int, again bool) serviceEvent {
	return serviceEvent{service: render.ServiceName{Namespace: "ns", Name: fmt.Sprint("s", service)}, reason: reasonAddressRefused, again: again}
}

// TestEventsOfManyNodes: up to 100 Services are hostile, and each of 5,000 nodes finds it at once. About ten nodes write an Event about each
// Service in the first minute, and in ten minutes of edits about as many in each minute. Of each Service there is an Event.
func TestEventsOfManyNodes(t *testing.T) {
	const nodes = 5000
	for _, c := range []struct {
		name           string
		services       int
		edits, minutes int // edits of each Service, at equal distances
		again          bool
		atMost         int // Events about one Service
	}{
		{"created once", 100, 1, 1, false, 3 * nodesAtOnce},
		{"edited for a minute", 20, 6, 1, false, 3 * nodesAtOnce * eventBurst},
		{"edited for ten minutes", 10, 20, 10, false, 2 * (nodesAtOnce*eventBurst + 9*nodesAtOnce)},
		{"a port that is in use everywhere, for ten minutes", 10, 20, 10, true, 2 * 10 * nodesAtOnce},
	} {
		s := newQuotaTest(nodes)
		written, all := make(map[int]int), 0
		for edit := range c.edits {
			for _, node := range s.nodes {
				for service := range c.services {
					if node.admits(s.event(service, c.again && edit > 0), s.now) {
						written[service]++
						all++
					}
				}
			}
			s.now = s.now.Add(time.Duration(c.minutes) * time.Minute / time.Duration(c.edits))
		}
		most := 0
		for _, n := range written {
			most = max(most, n)
		}
		t.Logf("%s: %d Events about %d Services, at most %d about one", c.name, all, len(written), most)
		if len(written) != c.services || most > c.atMost {
			t.Errorf("%s: Events about %d Services, at most %d about one, want %d", c.name, len(written), most, c.atMost)
		}
	}
}

// TestEventsOfFewNodes: in a small cluster every node writes an Event at once, and a cause that goes on is reported again in ten
// minutes.
func TestEventsOfFewNodes(t *testing.T) {
	s := newQuotaTest(nodesAtOnce)
	for i, node := range s.nodes {
		written := 0
		for second := range 25 * 60 {
			if node.admits(s.event(0, second > 0), s.now.Add(time.Duration(second)*time.Second)) {
				written++
			}
		}
		if written != 3 {
			t.Errorf("node %d writes %d Events in 25 minutes", i, written)
		}
	}
}

// TestEventsOfOneNode: a cause that only one of many nodes has is reported by that node, after the time that all nodes together would
// need.
func TestEventsOfOneNode(t *testing.T) {
	s := newQuotaTest(5000)
	var longest time.Duration
	for _, node := range s.nodes {
		for minute := range 501 {
			if after := time.Duration(minute) * time.Minute; node.admits(s.event(0, minute > 0), s.now.Add(after)) {
				longest = max(longest, after)
				break
			}
			if minute == 500 {
				t.Fatal("a node never writes")
			}
		}
	}
	if longest < 400*time.Minute {
		t.Errorf("all nodes have written after %s", longest)
	}
}
