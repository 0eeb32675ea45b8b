package render

import (
	"strings"
	"testing"
	"time"

	"nfproxy/nft"
)

// changesText prints changes, one to a line.
func changesText(changes []nft.Change) string {
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.String())
	}
	return strings.Join(lines, "\n")
}

// TestChangesOfManyUpdates: what is sent is the difference between what is installed and what is wanted, whatever was
// wanted in between.
func TestChangesOfManyUpdates(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	sticky := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80")
	sticky.Affinity = time.Hour
	other := testService("s", 1, "10.96.0.2:80", "10.0.0.1:80")
	update := func(s Service) { r.Update(Update{Services: []Service{s}}) }
	remove := func() { r.Update(Update{Removed: []ServiceName{sticky.ServiceName}}) }

	update(sticky)
	remove()
	if got := converge(r); len(got) > 0 {
		t.Errorf("come and gone is sent as\n%s", changesText(got))
	}
	update(sticky)
	converge(r)
	remove()
	update(other)
	update(sticky)
	if got := converge(r); len(got) > 0 {
		t.Errorf("gone and come back is sent as\n%s", changesText(got))
	}
}

// TestQuarantine: a Service in quarantine keeps what it had, others go on, and its next change is tried.
func TestQuarantine(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	good, bad := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80"), testService("s", 1, "10.96.0.1:80", "10.0.0.2:80")
	r.Update(Update{Services: []Service{good}})
	converge(r)
	r.Update(Update{Services: []Service{bad, testService("t", 1, "10.96.0.2:80")}})
	changes := r.Plan() // which the kernel refuses
	var owners []ServiceName
	for _, c := range changes {
		if strings.Contains(c.String(), "10.0.0.2") {
			owners = r.Owners(c)
		}
	}
	if len(owners) != 1 || owners[0] != bad.ServiceName {
		t.Fatalf("the change belongs to %v", owners)
	}
	if !r.Quarantine(bad.ServiceName) || r.Quarantine(bad.ServiceName) {
		t.Error("a Service goes into quarantine once")
	}
	reconcile(r, nil)
	text := r.Tables()[0].String()
	if !strings.Contains(text, "10.0.0.1 . 80") || strings.Contains(text, "10.0.0.2 . 80") || !strings.Contains(text, "ns/t:p") {
		t.Errorf("the tables are\n%s", text)
	}
	if !r.Quarantined(bad.ServiceName) || r.Quarantined(ServiceName{"ns", "t"}) {
		t.Error("another Service than the one is in quarantine")
	}
	r.Release(bad.ServiceName)
	if got := changesText(converge(r)); !strings.Contains(got, "10.0.0.2 . 80") {
		t.Errorf("released, it gets\n%s", got)
	}
	r.Quarantine(bad.ServiceName)
	r.Update(Update{Services: []Service{good}})
	if r.Quarantined(bad.ServiceName) {
		t.Error("changed, and still in quarantine")
	}
}

// TestQuarantineGivesWay: what a Service keeps in quarantine, it keeps only as long as nobody has a better right.
func TestQuarantineGivesWay(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	r.Update(Update{Services: []Service{testService("young", 2, "10.96.0.1:80", "10.0.0.1:80")}})
	converge(r)
	r.Quarantine(ServiceName{"ns", "young"})
	r.Update(Update{Services: []Service{testService("old", 1, "10.96.0.1:80", "10.0.0.9:80")}})
	converge(r)
	services := r.Tables()[0].Set("services").Elements
	if len(services) != 1 || services[0].Comment != "ns/old:p" {
		t.Errorf("the frontends are %v", services)
	}
}
