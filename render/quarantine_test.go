package render

import (
	"strings"
	"testing"
)

// TestQuarantine: a quarantined Service keeps its applied objects, others are programmed, and the next update of the Service ends the
// quarantine.
func TestQuarantine(t *testing.T) {
	r := NewRuleset(Node{})
	reconcile(r, nil)
	good, bad := testService("s", 1, "10.96.0.1:80", "10.0.0.1:80"), testService("s", 1, "10.96.0.1:80", "10.0.0.2:80")
	r.Update(Update{Services: []Service{good}})
	converge(r)
	r.Update(Update{Services: []Service{bad, testService("t", 1, "10.96.0.2:80")}})
	changes := r.Plan() // the kernel rejects it
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
		t.Error("Quarantine does not return true once, then false")
	}
	reconcile(r, nil)
	text := r.Tables()[0].String()
	if !strings.Contains(text, "10.0.0.1 . 80") || strings.Contains(text, "10.0.0.2 . 80") || !strings.Contains(text, "ns/t:p") {
		t.Errorf("the tables are\n%s", text)
	}
	if !r.Quarantined(bad.ServiceName) || r.Quarantined(ServiceName{"ns", "t"}) {
		t.Error("the quarantined Service is not the expected one")
	}
	r.Release(bad.ServiceName)
	if got := changesText(converge(r)); !strings.Contains(got, "10.0.0.2 . 80") {
		t.Errorf("after the release the changes are\n%s", got)
	}
	r.Quarantine(bad.ServiceName)
	r.Update(Update{Services: []Service{good}})
	if r.Quarantined(bad.ServiceName) {
		t.Error("the Service is still quarantined after an update")
	}
}

// TestQuarantineGivesWay: a quarantined Service loses a frontend to a Service whose claim takes precedence.
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
		t.Errorf("the frontends are %v, want that of ns/old", services)
	}
}
