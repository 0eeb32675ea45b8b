package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gdamore/tcell/v2"
)

// TestTopScreen: the screen shows the rows that fit, follows new readings and the terminal's size, shows errors, and ends.
func TestTopScreen(t *testing.T) {
	for name, end := range map[string]func(tcell.SimulationScreen, func()){
		"q":       func(s tcell.SimulationScreen, _ func()) { s.InjectKey(tcell.KeyRune, 'q', 0) },
		"Ctrl-C":  func(s tcell.SimulationScreen, _ func()) { s.InjectKey(tcell.KeyCtrlC, 0, tcell.ModCtrl) },
		"SIGTERM": func(_ tcell.SimulationScreen, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { topSession(t, end) }) })
	}
}

func topSession(t *testing.T, end func(tcell.SimulationScreen, func())) {
	screen := tcell.NewSimulationScreen("")
	if err := screen.Init(); err != nil {
		t.Fatal(err)
	}
	defer screen.Fini()
	rows := func(rate float64) []topRow {
		var all []topRow
		for i := range 3 {
			all = append(all, topRow{service: fmt.Sprintf("default/s%d", i), kinds: []string{"ClusterIP"}, connections: rate, total: 7})
		}
		return all
	}
	readings := make(chan error, 1)
	s := &topScreen{Screen: screen, rows: rows(1), read: func() ([]topRow, error) { return rows(2), <-readings }}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tick, ended := make(chan time.Time), make(chan error)
	go func() { ended <- s.show(ctx, tick) }()
	expect := func(wants ...string) {
		t.Helper()
		synctest.Wait()
		text := contents(screen)
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("the screen has no %q:\n%s", want, text)
			}
		}
	}

	expect("nfproxy top: 3.0 connections/s, 0.0 refused/s, 0.0 dropped/s", "SERVICE      KIND", "default/s2   ClusterIP   1.0")
	readings <- nil
	tick <- time.Time{}
	expect("6.0 connections/s", "default/s2   ClusterIP   2.0")
	screen.SetSize(60, 6)
	screen.PostEvent(tcell.NewEventResize(60, 6))
	expect("default/s1", "rows not shown: 1")
	readings <- errors.New("no tables")
	tick <- time.Time{}
	expect("nfproxy top: no tables")
	end(screen, cancel)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// contents returns the lines of a screen.
func contents(s tcell.SimulationScreen) string {
	var b strings.Builder
	cells, width, _ := s.GetContents()
	for i, c := range cells {
		b.WriteString(string(c.Runes))
		if (i+1)%width == 0 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}
