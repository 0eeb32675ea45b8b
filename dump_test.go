package main

import (
	"encoding/json"
	"strings"
	"testing"

	"nfproxy/render"
)

// TestDumpJSON: what is printed Service by Service is the JSON form of the whole.
func TestDumpJSON(t *testing.T) {
	r := render.NewRuleset(render.Node{Name: "n"})
	r.Update(render.Update{Node: render.Node{Name: "n"}, Services: manyServices(600)})
	r.Reconcile(nil)
	all := render.Describe(r.Tables())
	for _, n := range []int{0, 1, 2, 256, 257, 600} {
		d := render.Description{Tables: all.Tables, Services: all.Services[:n]}
		want, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if err := dumpJSON(&got, nil, d); err != nil || got.String() != string(want)+"\n" {
			t.Errorf("%v, and\n%s\nwant\n%s", err, got.String(), want)
		}
	}
}
