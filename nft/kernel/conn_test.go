package kernel

import (
	"testing"

	"nfproxy/nft"
)

// TestChangedSinceRead: commits of other programs count as a change until the next Read, the Conn's own do not.
func TestChangedSinceRead(t *testing.T) {
	c, foreign := open(t), open(t)
	table := func(name string) []nft.Change {
		return []nft.Change{{Op: nft.Add, Object: &nft.Table{TableID: nft.TableID{Family: nft.IPv4, Name: name}}}}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want bool
	}{
		{"Read", func() error { _, _, err := c.Read(); return err }, false},
		{"an own commit", func() error { return c.Apply(table("ours"), 0) }, false},
		{"Apply without changes", func() error { return c.Apply(nil, 0) }, false},
		{"another program's commit", func() error { return foreign.Apply(table("other"), 0) }, true},
		{"an own commit afterwards", func() error { return c.Apply(table("more"), 0) }, true},
		{"another Read", func() error { _, _, err := c.Read(); return err }, false},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if got, err := c.ChangedSinceRead(); err != nil || got != step.want {
			t.Errorf("after %s: %t, %v, want %t", step.name, got, err, step.want)
		}
	}
}
